"""Claim l, our own: bits of weights and activations searched together beat bits of activations alone.

Command: python scripts/ledger.py --claim=l
Source: our choice. Weights have the candidates 2, 4 and 8 bits instead of 4 bits. Both selections spend their target,
  as in claim j. The uniform assignments have 4-bit weights; 3 bits cost 0.0587 GBOPs, 4 bits 0.0771.
"""

import pathlib

import ml_collections

from metamix_jax.config_file import load_config


def get_config() -> ml_collections.ConfigDict:
  """Returns the claim, locked."""
  config = load_config(pathlib.Path(__file__).with_name("shared.py"))
  with config.unlocked():
    config.title = "bits of weights and activations searched together beat bits of activations alone"
    config.minutes = 32
    config.candidate_weight_bits = (2, 4, 8)
    config.tolerance = 0.005  # Of both selections; the other claims have 0.03.
    config.uniform_bits = (3, 4)  # Of activations, with weights of 4 bits.
    config.timed_steps = 20  # Of each kind, in turns; the median counts.
    config.rules.update(alone=(0.0, 0.3), line=(0.0, 0.3), time=(0.0, 5.0))  # Points of top-1; percent less.
  return config.lock()
