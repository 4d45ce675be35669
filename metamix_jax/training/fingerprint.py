"""The fingerprint of a network: equal where its bits, weights, step sizes and batch statistics are, to the last bit."""

from collections.abc import Mapping
import hashlib
import json
from typing import Any

import jax
import numpy as np

from metamix_jax.training.state import MetaState


def fingerprint(meta: MetaState, bits: Mapping[str, int]) -> str:
  """Returns a hexadecimal SHA-256 of a state and of the bits that it is evaluated at.

  Args:
    meta: the state; its optimiser and its step do not count.
    bits: by name of the searched layer, in any order; {} for the meta-state, which serves all.
  """
  return hashlib.sha256(json.dumps([sorted(bits.items()), digest_of_state(meta)]).encode()).hexdigest()


def digest_of_state(meta: MetaState) -> str:
  """Returns a hexadecimal SHA-256 of weights, step sizes and batch statistics."""
  return digest_of_tree((meta.weights, meta.step_sizes, meta.batch_stats))


def digest_of_tree(tree: Any) -> str:
  """Returns a hexadecimal SHA-256 of a tree of arrays: of the places and the values of its leaves."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    digest.update(jax.tree_util.keystr(path).encode())
    digest.update(np.ascontiguousarray(jax.device_get(leaf)).tobytes())
  return digest.hexdigest()
