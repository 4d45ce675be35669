"""Layers whose kernels are searched too: each pair of an input's and a kernel's bit-width is one choice [A]."""

from collections.abc import Mapping, Sequence
import dataclasses
import itertools

import numpy as np

from metamix_jax.method.bops import CostTable, LayerCost, cost_name, cost_unit, layer_gbops

Pair = tuple[int, int | None]


def pairs_of(layer: LayerCost) -> list[Pair]:
  """Returns every choice for a layer, (bits of its input, bits of its kernel; None where they are not searched)."""
  return list(itertools.product(layer.candidate_bits, layer.candidate_weight_bits or (None,)))


def pair_layers(layers: Sequence[LayerCost]) -> tuple[LayerCost, ...]:
  """Returns the layers with a number for each pair in place of bits, and what the pairs cost as their table."""
  return tuple(
      dataclasses.replace(
          layer, candidate_bits=tuple(range(len(pairs_of(layer)))), candidate_weight_bits=(),
          cost=CostTable(
              cost_name(layers), cost_unit(layers), tuple(layer_gbops(layer, *pair) for pair in pairs_of(layer))))
      for layer in layers)


def pair_values(layers: Sequence[LayerCost], alpha: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the sum of both alphas for each pair, float64 [pairs] by layer name: log probabilities plus a constant.

  Args:
    layers: every quantised layer.
    alpha: {name: [B]} of the searched layers and kernels.
  """
  return {
      layer.name: np.add.outer(
          np.asarray(alpha[layer.name], np.float64),
          np.asarray(alpha[layer.kernel_name], np.float64) if layer.candidate_weight_bits else np.zeros(1)).ravel()
      for layer in layers if layer.searched}


def bits_of_pairs(layers: Sequence[LayerCost], pairs: Mapping[str, int]) -> dict[str, int]:
  """Returns bits by name of the searched layers, then of the searched kernels, from the numbers of their pairs."""
  of_inputs, of_kernels = {}, {}
  for layer in layers:
    if layer.searched:
      of_inputs[layer.name], kernel_bits = pairs_of(layer)[pairs[layer.name]]
      if kernel_bits is not None:
        of_kernels[layer.kernel_name] = kernel_bits
  return of_inputs | of_kernels
