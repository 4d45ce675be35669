"""Precision trees: they tell each layer of a network how to quantise its input (see nn/layers.py).

A tree mirrors the modules of the network; an empty tree means full precision. Its leaves are arrays, so a change of
bits changes data and not the program. Only these trees hold indices of candidates; everywhere else a bit-width is a
number of bits.
"""

from collections.abc import Mapping, Sequence

from flax import traverse_util
from jax import Array
import jax.numpy as jnp

from metamix_jax.method.bit_mixture import bit_probabilities
from metamix_jax.method.bops import LayerCost

FULL_PRECISION: dict = {}


def uniform_precision(layers: Sequence[LayerCost], candidate: Array) -> dict:
  """Puts every searched layer at the candidate with index `candidate`, int32 scalar, for the scan of M10."""
  return _candidate_tree({layer.name: candidate if layer.searched else 0 for layer in layers})


def assigned_precision(layers: Sequence[LayerCost], bits: Mapping[str, int]) -> dict:
  """Puts every searched layer at its own bits.

  Args:
    layers: every quantised layer.
    bits: bits by layer name; layers that are not searched are ignored.

  Raises:
    ValueError: a layer does not have this candidate.
  """
  return _candidate_tree({
      layer.name: layer.candidate_of(bits[layer.name]) if layer.searched else 0 for layer in layers})


def mixed_precision(layers: Sequence[LayerCost], alpha: Mapping[str, Array]) -> dict:
  """Lets every searched layer mix its candidates with the probabilities of its alpha [B] (M5, M6)."""
  return traverse_util.unflatten_dict({
      (*layer.name.split("/"), "probabilities"): bit_probabilities(alpha[layer.name])
      for layer in layers if layer.searched
  } | {
      (*layer.name.split("/"), "candidate"): jnp.zeros((), jnp.int32)
      for layer in layers if not layer.searched
  })


def _candidate_tree(candidates: Mapping[str, int | Array]) -> dict:
  return traverse_util.unflatten_dict({
      (*name.split("/"), "candidate"): jnp.asarray(candidate, jnp.int32) for name, candidate in candidates.items()})
