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
