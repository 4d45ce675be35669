"""A sweep on handwritten digits: three targets, each with two seeds.

Command: python scripts/sweep.py --config=configs/sweeps/digits_targets.py --workdir=runs/digits_targets
Expected: six runs of about five minutes on two CPU cores; results.csv and accuracy_against_cost.png in the workdir.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """The sweep; its parts can be overridden on the command line, --config.fixed.stage_b.epochs=5."""
  sweep = ml_collections.ConfigDict()
  sweep.base = "configs/digits.py"  # As --config of a run; a tuple of several makes them a part of the grid.
  # Every combination of these becomes a run; a field of the base config, and its values.
  sweep.grid = ml_collections.ConfigDict()
  sweep.grid.arch = ml_collections.ConfigDict(dict(target_gbops=(0.021, 0.025, 0.032)))
  sweep.grid.seed = (0, 1)
  # Other values than the base has, the same in every run.
  sweep.fixed = ml_collections.ConfigDict()
  sweep.fixed.stage_b = ml_collections.ConfigDict(dict(epochs=20))
  return sweep.lock()
