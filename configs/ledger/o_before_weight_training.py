"""Claim o, our own: the lead of sensitivity in claim i is there before weight training.

Command: python scripts/ledger.py --claim=o
Source: our choice, made after claim i was run, in which the assignment by sensitivity ends above the selection, and
  after these losses of its five seeds were seen: the claim records them, it is no test. Bits and meta-state are those
  of claim i; both assignments are judged on the test images without any training.
"""

import pathlib

import ml_collections

from metamix_jax.config_file import load_config


def get_config() -> ml_collections.ConfigDict:
  """Returns the claim, locked."""
  config = load_config(pathlib.Path(__file__).with_name("i_two_four_eight.py"))
  with config.unlocked():
    config.title = "the lead of sensitivity in claim i is there before weight training"
    config.minutes = 4
    del config.num_random, config.random_excess
    config.rules = ml_collections.ConfigDict(dict(loss=(0.0, 0.01)))  # In nats.
  return config.lock()
