"""Claim b: searching on the fixed meta-state beats searching while the weights move.

Command: python scripts/ledger.py --claim=b
Source: our choice. The ablation is claims.ablations.moving_weights; it takes one more step of the weights on each
  batch.
"""

import pathlib

import ml_collections

from metamix_jax.config_file import load_config


def get_config() -> ml_collections.ConfigDict:
  """Returns the claim, locked."""
  config = load_config(pathlib.Path(__file__).with_name("shared.py"))
  with config.unlocked():
    config.title = "searching on the fixed meta-state beats searching while the weights move"
    config.paper = "72.39 against 71.93, MobileNetV2"
    config.minutes = 30
    config.rules.update(trained=(0.0, 0.3), loss=(0.0, 0.01))  # Points of top-1, nats.
  return config.lock()
