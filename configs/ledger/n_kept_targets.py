"""Claim n, our own: targets of ten classes, and crops that come again, cost no accuracy.

Command: python scripts/ledger.py --claim=n
Source: our choice. Fewer classes save bytes of kept targets, repeated crops the teacher's work (docs/kept-targets.md).
  Ten of the 100 classes are kept; orders and crops come again after 2 of the 7 epochs of weight training. The search
  is the same in all three.
  Within 0.3 points of top-1 two trainings are equal for us, as in claim a.
"""

import pathlib

import ml_collections

from metamix_jax.config_file import load_config


def get_config() -> ml_collections.ConfigDict:
  """Returns the claim, locked."""
  config = load_config(pathlib.Path(__file__).with_name("shared.py"))
  with config.unlocked():
    config.title = "targets of ten classes, and crops that come again, cost no accuracy in weight training"
    config.minutes = 12
    config.kept_classes = 10  # Of each image.
    config.repeat_epochs = 2
    config.rules.update(reaches=(-0.3, -0.3))  # Points of top-1.
  return config.lock()
