"""Six short runs on digit pairs, to time a sweep; their accuracies mean nothing.

Command: python scripts/benchmarks/bench_sweep.py
Source: our choice. Each run has all phases, of one epoch each.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """Returns the sweep, locked."""
  sweep = ml_collections.ConfigDict()
  sweep.base = "configs/digit_pairs.py"
  sweep.grid = ml_collections.ConfigDict()
  sweep.grid.seed = (0, 1, 2, 3, 4, 5)
  sweep.fixed = ml_collections.ConfigDict(dict(
      arch=dict(target_gbops=0.07), pretraining=dict(epochs=1),
      bit_selection=dict(epochs=1, meta_only_epochs=0), stage_a=dict(epochs=1), stage_b=dict(epochs=1)))
  return sweep.lock()
