"""Precision trees: they tell each layer of a network how to quantise its input (see nn/layers.py).

A tree mirrors the modules of the network; an empty tree means full precision, and so does a layer that has no leaf. The
leaves are arrays, so a change of bits changes data and not the program. Only these trees hold indices of candidates;
everywhere else a bit-width is a number of bits.
"""

from collections.abc import Mapping, Sequence

from flax import traverse_util
from jax import Array
import jax.numpy as jnp

from metamix_jax.method.bit_mixture import bit_probabilities
from metamix_jax.method.bops import LayerCost, candidate_widths

FULL_PRECISION: dict = {}


def bits_at_width(layers: Sequence[LayerCost], width: int) -> dict[str, int]:
  """Returns the bits of every layer in a network "at `width`", by layer name.

  A searched layer takes its widest candidate that is not above `width`, and its lowest where all are above [A]. Over
  the widths of `candidate_widths`, each candidate of each layer has its turn. A layer that is not searched keeps its
  only one.
  """
  return {
      layer.name: max((bits for bits in layer.candidate_bits if bits <= width), default=layer.candidate_bits[0])
      for layer in layers
  }


def precision_at_width(layers: Sequence[LayerCost], width_index: Array, turn: Array | int = 0) -> dict:
  """Puts every searched layer at its `bits_at_width`, for the scan of M10.

  Searched kernels take the candidate with the index width_index + turn, around the end of their candidates [A]. Over as
  many turns as there are candidates, every pair of an input's and a kernel's bit-width has its turn once.

  Args:
    layers: every quantised layer.
    width_index: index into `candidate_widths`, an int32 scalar, or a tracer in a scan.
    turn: number of the step, int32 scalar; used only where kernels are searched.
  """
  bits = [bits_at_width(layers, width) for width in candidate_widths(layers)]
  candidates: dict[str, int | Array] = {}
  for layer in (layer for layer in layers if layer.quantized):
    indices = [layer.candidate_of(of_layers[layer.name]) for of_layers in bits]
    if not layer.searched:
      candidates[layer.name] = 0
    elif indices == list(range(len(bits))):
      candidates[layer.name] = width_index
    else:
      candidates[layer.name] = jnp.array(indices, jnp.int32)[width_index]
  return _candidate_tree(candidates, {
      layer.name: (width_index + turn) % len(layer.candidate_weight_bits)
      for layer in layers if layer.candidate_weight_bits})


def assigned_precision(layers: Sequence[LayerCost], bits: Mapping[str, int]) -> dict:
  """Puts every searched layer at its own bits.

  Args:
    layers: every quantised layer.
    bits: bits by layer name; layers that are not searched are ignored. A searched kernel has bits under its own name,
      or layer.weight_bits.

  Raises:
    ValueError: a layer does not have this candidate.
  """
  return _candidate_tree({
      layer.name: layer.candidate_of(bits[layer.name]) if layer.searched else 0 for layer in layers
      if layer.quantized
  }, {
      layer.name: layer.candidate_weight_bits.index(bits.get(layer.kernel_name, layer.weight_bits))
      for layer in layers if layer.candidate_weight_bits})


def mixed_precision(layers: Sequence[LayerCost], alpha: Mapping[str, Array]) -> dict:
  """Lets every searched layer, and every searched kernel, mix its candidates as its alpha [B] says (M5, M6)."""
  return traverse_util.unflatten_dict({
      (*layer.name.split("/"), "probabilities"): bit_probabilities(alpha[layer.name])
      for layer in layers if layer.searched
  } | {
      (*layer.name.split("/"), "kernel_probabilities"): bit_probabilities(alpha[layer.kernel_name])
      for layer in layers if layer.candidate_weight_bits
  } | {
      (*layer.name.split("/"), "candidate"): jnp.zeros((), jnp.int32)
      for layer in layers if not layer.searched and layer.quantized
  })


def _candidate_tree(candidates: Mapping[str, int | Array], of_kernels: Mapping[str, int | Array] | None = None) -> dict:
  return traverse_util.unflatten_dict({
      (*name.split("/"), leaf): jnp.asarray(candidate, jnp.int32)
      for leaf, indices in (("candidate", candidates), ("kernel_candidate", of_kernels or {}))
      for name, candidate in indices.items()})
