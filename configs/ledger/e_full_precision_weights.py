"""Claim e: full-precision weights in bit-meta training reduce the instability, against 4-bit weights.

Command: python scripts/ledger.py --claim=e
Source: our choice. The ablation starts bit-meta training with weight step sizes (M4), which train along with it.
"""

import pathlib

import ml_collections

from metamix_jax.config_file import load_config


def get_config() -> ml_collections.ConfigDict:
  """Returns the claim, locked."""
  config = load_config(pathlib.Path(__file__).with_name("shared.py"))
  with config.unlocked():
    config.title = "full-precision weights in bit-meta training keep statistics nearer together than 4-bit weights"
    config.paper = "figure 6"
    config.minutes = 25
    config.rules.update(distance=(0.0, 5.0), trained=(0.0, 0.3))  # In percent less; points of top-1.
  return config.lock()
