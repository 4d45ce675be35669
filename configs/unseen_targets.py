"""Twenty targets searched side by side on a finished meta-state, to measure how far choosing reaches (docs/targets.md).

Command: python -m metamix_jax.main --config=configs/unseen_targets.py:runs/digit_pairs --workdir=runs/unseen_targets
Then: python scripts/unseen_targets.py runs/unseen_targets
Source: our choice. On digit pairs the targets go from 6 % above all layers at 3 bits (0.0587 GBOPs) to 41 % above all
  layers at 4 bits (0.0771 GBOPs), each 3 % above the one before.
Expected: a run of about twenty minutes on one CPU core; no network is trained after the search. VERIFIED where
  docs/targets.md has the table.
"""

import pathlib

import ml_collections

from metamix_jax.config_file import load_config


def get_config(folder: str) -> ml_collections.ConfigDict:
  """Returns the config of the run in a folder, with twenty targets on its meta-state and without weight training."""
  config = load_config(pathlib.Path(__file__).with_name("of_run.py"), folder)
  with config.unlocked(), config.ignore_type():  # The target of the run may be a number.
    config.meta_state_from = folder
    config.arch.target_gbops = tuple(round(0.062 * 1.03**step, 4) for step in range(20))
    config.arch.train_targets = ()
  return config.lock()
