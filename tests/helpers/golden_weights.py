"""Weights made from names and shapes alone, the ones behind the golden logits."""

import json
import zlib

import numpy as np

from tests.helpers.files import GOLDEN

SHAPES = json.loads((GOLDEN / "torchvision_logits.shapes.json").read_text())


def golden_state_dict(network, seed):
  """A torchvision state dict of a network, float32."""
  state = {}
  for name, shape in SHAPES[network].items():
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if name.endswith("num_batches_tracked"):
      values = np.zeros(shape)
    elif name.endswith("running_mean"):
      values = rng.normal(0, 0.1, shape)
    elif name.endswith("running_var"):
      values = rng.uniform(0.5, 1.5, shape)
    elif name.endswith("bias"):
      values = rng.normal(0, 0.1, shape)
    elif len(shape) == 1:
      values = rng.uniform(0.7, 1.1, shape)
    else:
      values = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
    state[name] = values.astype(np.float32)
  return state
