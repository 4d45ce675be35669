"""Claim f: early and late depthwise layers get the high bits.

Command: python scripts/ledger.py --claim=f
Source: our choice. Two of seven depthwise layers are early, two are late. Half a bit is worthwhile: an eighth of the
  difference between 4 and 8 bits.
"""

import pathlib

import ml_collections

from metamix_jax.config_file import load_config


def get_config() -> ml_collections.ConfigDict:
  """Returns the claim, locked."""
  config = load_config(pathlib.Path(__file__).with_name("shared.py"))
  with config.unlocked():
    config.title = "early and late depthwise layers get the high bits"
    config.paper = "early and late depthwise layers get high bits, MobileNetV2"
    config.minutes = 2
    config.arguments.update(early=2, late=2, target="0.09")  # The target at which there is room for 8 bits.
    config.rules.update(others=(0.0, 0.5), middle=(0.0, 0.5))
  return config.lock()
