"""How the quality of a search is measured.

Command: python scripts/search_quality.py DIR
Source: our choice. With 200 random assignments, the share that a selection beats has a standard error of 3.5 points
  at 50 % and of 0.7 points at 99 %. The local search judges 100 assignments on 1,536 images, which is twice the work of
  the 400 search steps of configs/digit_pairs.py: batches of 64, and a backward pass that costs two forward passes.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """Returns the config, locked."""
  config = ml_collections.ConfigDict()
  config.seed = 0  # Of the random assignments, the order of the local search, and the bootstrap.
  config.num_random = 200  # Random assignments at the cost of each target.
  config.random_batches = 3  # Evaluation batches that they are judged on, beside the selection.
  # Training batches that sensitivity and the local search judge assignments on; all of an epoch, if there are fewer.
  config.judging_batches = 24
  config.num_local = 100  # Assignments that the local search may judge.
  config.num_resamples = 2000  # Of the test images, for a 95 % interval.
  return config.lock()
