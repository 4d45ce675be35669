"""Claim h: the mean of the bit-widths' gradients beats the release's last bit-width alone.

Command: python scripts/ledger.py --claim=h
Source: our choice. The ablation is claims.ablations.last_width_step, which is the arithmetic of the public release.
"""

import pathlib

import ml_collections

from metamix_jax.config_file import load_config


def get_config() -> ml_collections.ConfigDict:
  """Returns the claim, locked."""
  config = load_config(pathlib.Path(__file__).with_name("shared.py"))
  with config.unlocked():
    config.title = "the gradient of the mean over the bit-widths beats that of the last bit-width alone"
    config.paper = "the paper has the mean, its public release the last bit-width"
    config.minutes = 25
    config.rules.update(trained=(0.0, 0.3), meta_state=(0.0, 0.3))
  return config.lock()
