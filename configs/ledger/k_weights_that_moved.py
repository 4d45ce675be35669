"""Claim k, our own: in claim b the weights that moved lead, not the bits that were searched on them.

Command: python scripts/ledger.py --claim=k
Source: our choice, made after claim b was run. In two of five seeds both searches select the same bits. In the other
  three those of the moving weights have a loss lower by 0.002 to 0.011 nats and cost 1 % more, straight from the fixed
  meta-state. After weight training they are above in all five. Their weights have taken 400 steps more.
  Within 0.3 points of top-1 two assignments are equal for us, as in claim a. The third statement is claim b's first at
  the tolerance that has been the default since claim j; it was added when two of the seeds had the first two.
"""

import pathlib

import ml_collections

from metamix_jax.config_file import load_config


def get_config() -> ml_collections.ConfigDict:
  """Returns the claim, locked."""
  config = load_config(pathlib.Path(__file__).with_name("shared.py"))
  with config.unlocked():
    config.title = "in claim b the weights that moved lead, not the bits that were searched on them"
    config.minutes = 18
    config.tolerance = 0.005  # Of the selections that spend their target, as in claim j.
    config.rules.update(weights=(0.0, 0.3), bits=(-0.3, -0.3), spent=(0.0, 0.3))
  return config.lock()
