"""Precision trees: what tells each layer of a network how to quantise its input (see layers.py).

A tree mirrors the modules of the network; an empty one means full precision. Its leaves are arrays, so that a
change of bits is a change of data, not of the program.
"""

from collections.abc import Mapping, Sequence

from flax import traverse_util
from jax import Array
import jax.numpy as jnp

from metamix_jax.method.bit_mixture import bit_probabilities
from metamix_jax.method.bops import LayerCost

FULL_PRECISION: dict = {}


def uniform_precision(layers: Sequence[LayerCost], candidate: Array) -> dict:
  """Every searched layer at the candidate of this index, int32 scalar; the others at their only one."""
  return assigned_precision(layers, {layer.name: candidate for layer in layers if layer.searched})


def candidate_widths(layers: Sequence[LayerCost]) -> tuple[int, ...]:
  """Returns every bit-width that a searched layer may have, ascending: what a bit-meta step goes through.

  One set for all layers gives that set; other sets give their union [A].
  """
  return tuple(sorted({bits for layer in layers if layer.searched for bits in layer.candidate_bits}))


def bits_at_width(layers: Sequence[LayerCost], width: int) -> dict[str, int]:
  """Returns the bits of every layer in a network "at `width`", by layer name.

  A searched layer takes its widest candidate that is not above `width`, and its lowest where all are above [A]: at the
  widths of `candidate_widths`, each candidate of each layer has its turn. A layer that is not searched keeps its only
  one.
  """
  return {
      layer.name: max((bits for bits in layer.candidate_bits if bits <= width), default=layer.candidate_bits[0])
      for layer in layers
  }


def precision_at_width(layers: Sequence[LayerCost], width_index: Array) -> dict:
  """Returns the precision tree of `bits_at_width`, which for layers of one set is `uniform_precision`.

  Args:
    layers: every quantised layer.
    width_index: index into `candidate_widths`, int32 scalar, or a tracer in a scan.
  """
  widths = candidate_widths(layers)
  bits = [bits_at_width(layers, width) for width in widths]
  candidates = {}
  for layer in layers:
    if layer.searched:
      indices = tuple(layer.candidate_bits.index(of_layers[layer.name]) for of_layers in bits)
      in_order = indices == tuple(range(len(widths)))
      candidates[layer.name] = width_index if in_order else jnp.array(indices, jnp.int32)[width_index]
  return assigned_precision(layers, candidates)


def assigned_precision(layers: Sequence[LayerCost], candidates: Mapping[str, Array]) -> dict:
  """Every searched layer at its own candidate: index by layer name, int32 scalars."""
  return _tree({
      (*layer.name.split("/"), "candidate"): jnp.asarray(candidates[layer.name] if layer.searched else 0, jnp.int32)
      for layer in layers
  })


def mixed_precision(layers: Sequence[LayerCost], alpha: Mapping[str, Array]) -> dict:
  """Every searched layer mixes its candidates with the probabilities of its alpha [B] (M5, M6)."""
  return _tree({
      (*layer.name.split("/"), "probabilities"): bit_probabilities(alpha[layer.name])
      for layer in layers if layer.searched
  } | {
      (*layer.name.split("/"), "candidate"): jnp.zeros((), jnp.int32)
      for layer in layers if not layer.searched
  })


def _tree(leaves: dict) -> dict:
  return traverse_util.unflatten_dict(leaves)
