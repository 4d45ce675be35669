"""Claim i: claim a with the candidates 2, 4 and 8 bits, which most hardware has.

Command: python scripts/ledger.py --claim=i
Source: our choice. All searched layers at 2 bits cost 0.0403 GBOPs, at 4 bits 0.0771; 0.06 is in the middle.
"""

import pathlib

import ml_collections

from metamix_jax.config_file import load_config


def get_config() -> ml_collections.ConfigDict:
  """Returns the claim, locked."""
  config = load_config(pathlib.Path(__file__).with_name("shared.py"))
  with config.unlocked():
    config.title = "with the candidates 2, 4 and 8, mixed beats uniform at equal BOPs, after weight training"
    config.paper = ""
    config.minutes = 65
    config.run.quantization.candidate_bits = (2, 4, 8)
    config.run.arch.target_gbops = 0.06
    config.reference, config.reference_targets = "reference_2_4_8", (0.06,)
    config.num_random, config.random_excess, config.judging_batches = 1, 0.01, 24  # As in claim a.
    config.rules.update(line=(0.0, 0.3), random=(0.0, 0.3), sensitivity=(0.0, 0.3))
  return config.lock()
