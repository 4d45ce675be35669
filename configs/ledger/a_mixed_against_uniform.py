"""Claim a: mixed beats uniform at equal BOPs, after weight training.

Command: python scripts/ledger.py --claim=a
Source: our choice. 0.3 points of top-1 is half of the standard error of one top-1 on 5,000 images; what is
  certainly smaller would not repay a search.
"""

import pathlib

import ml_collections

from metamix_jax.config_file import load_config


def get_config() -> ml_collections.ConfigDict:
  """Returns the claim, locked."""
  config = load_config(pathlib.Path(__file__).with_name("shared.py"))
  with config.unlocked():
    config.title = "mixed beats uniform at equal BOPs, after weight training"
    config.paper = "MobileNetV2 72.14 at 5.12 GBOPs, below the 5.39 GBOPs of all layers at 4 bits"
    config.minutes = 75
    config.num_random = 2  # Random assignments for each seed, each trained like the selection.
    config.random_excess = 0.01  # They cost at least what the selection costs, and at most this fraction more.
    config.judging_batches = 24  # Training batches that sensitivity judges on, as in configs/search_quality.py.
    config.rules.update(line=(0.0, 0.3), random=(0.0, 0.3), sensitivity=(0.0, 0.3))
  return config.lock()
