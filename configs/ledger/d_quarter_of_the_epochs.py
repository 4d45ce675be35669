"""Claim d: weight training from the meta-state needs a quarter of the epochs.

Command: python scripts/ledger.py --claim=d
Source: our choice. A quarter of configs/digit_pairs.py's epochs is what every other run of the ledger takes.
"""

import pathlib

import ml_collections

from metamix_jax.config_file import load_config


def get_config() -> ml_collections.ConfigDict:
  """Returns the claim, locked."""
  config = load_config(pathlib.Path(__file__).with_name("shared.py"))
  with config.unlocked():
    config.title = "weight training from the meta-state takes a quarter of the epochs that full precision takes"
    config.paper = "weight training that starts from the meta-state is short"
    config.minutes = 30
    config.full_epochs = (8, 20)  # Of stage A and stage B, from full precision; from the meta-state 2 and 5.
    config.rules.update(reaches=(-0.5, -0.5), same_epochs=(0.0, 0.3))
  return config.lock()
