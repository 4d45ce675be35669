"""Claim c: activation statistics differ less between bit-widths, and move less over time, with the method.

Command: python scripts/ledger.py --claim=c
Source: our choice. Less than 5 % would not be worth a figure.
"""

import pathlib

import ml_collections

from metamix_jax.config_file import load_config


def get_config() -> ml_collections.ConfigDict:
  """Returns the claim, locked."""
  config = load_config(pathlib.Path(__file__).with_name("shared.py"))
  with config.unlocked():
    config.title = "activation statistics differ less between bit-widths, and move less, after and in bit-meta training"
    config.paper = "figure 2: batch norm's running variance moves less with the method; depthwise layers are worst"
    config.minutes = 2
    config.first_steps = 600  # Of both searches: all steps of the method's.
    config.together_epochs = 22  # As in claim g, whose search is the one without the method.
    config.rules.update(distance=(0.0, 5.0), movement=(0.0, 5.0))  # In percent less.
  return config.lock()
