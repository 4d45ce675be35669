"""Claim j, our own: sensitivity leads in claim a because the selection leaves a part of its target unspent.

Command: python scripts/ledger.py --claim=j
Source: our choice, made after claim a was run: there the selections cost 98.3 to 99.4 % of the target, and the
  assignments by sensitivity 99.6 to 99.9 %. Within 0.3 points of top-1 they are equal for us, as in claim a.
"""

import pathlib

import ml_collections

from metamix_jax.config_file import load_config


def get_config() -> ml_collections.ConfigDict:
  """Returns the claim, locked."""
  config = load_config(pathlib.Path(__file__).with_name("shared.py"))
  with config.unlocked():
    config.title = "sensitivity leads in claim a because the selection leaves a part of its target"
    config.minutes = 9
    config.tolerance = 0.005  # Of the selection that spends its target; the other claims have 0.03.
    config.judging_batches = 24  # Of the sensitivity, as in claim a.
    config.rules.update(reaches=(-0.3, -0.3), gain=(0.0, 0.3))
  return config.lock()
