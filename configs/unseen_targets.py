"""Twenty targets searched side by side on digit pairs, to measure how far choosing reaches (docs/targets.md).

Command: python -m metamix_jax.main --config=configs/unseen_targets.py --workdir=runs/unseen_targets
Then: python scripts/unseen_targets.py runs/unseen_targets
Source: our choice. The targets go from 6 % above all layers at 3 bits (0.0587 GBOPs) to 41 % above all layers at 4 bits
  (0.0771 GBOPs), each 3 % above the one before: a selection may leave as much of its target unused.
Expected: a run of about half an hour on one CPU core; no network is trained after the search.
  NOT VERIFIED where docs/targets.md has no table of it.
"""

import pathlib

import ml_collections

from metamix_jax.config_file import load_config


def get_config() -> ml_collections.ConfigDict:
  """Returns configs/digit_pairs.py with twenty targets, without weight training."""
  config = load_config(pathlib.Path(__file__).with_name("digit_pairs.py"))
  config.arch.target_gbops = tuple(round(0.062 * 1.03**step, 4) for step in range(20))
  config.arch.train_targets = ()
  return config
