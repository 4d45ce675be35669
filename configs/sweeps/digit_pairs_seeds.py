"""Five searches for three targets each on digit pairs, whose quality docs/evidence.md reports.

Command: python scripts/sweep.py --config=configs/sweeps/digit_pairs_seeds.py --workdir=runs/digit_pairs_seeds
Then: python scripts/search_quality.py RUN, for each of the five folders, and python scripts/evidence.py RUN...
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """Returns the sweep, locked; no weights are trained after the search."""
  sweep = ml_collections.ConfigDict()
  sweep.base = "configs/digit_pairs.py"
  sweep.grid = ml_collections.ConfigDict()
  sweep.grid.seed = (0, 1, 2, 3, 4)
  sweep.fixed = ml_collections.ConfigDict()
  sweep.fixed.arch = ml_collections.ConfigDict(dict(train_targets=()))
  return sweep.lock()
