"""A sweep of two targets and two seeds that takes seconds: a tiny network, one epoch a phase."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """As configs/sweeps; fixed.data.data_dir is for the command line."""
  sweep = ml_collections.ConfigDict()
  sweep.base = "configs/digits.py"
  sweep.grid = ml_collections.ConfigDict()
  sweep.grid.arch = ml_collections.ConfigDict(dict(target_gbops=(0.0008, 0.001)))
  sweep.grid.seed = (0, 1)
  sweep.fixed = ml_collections.ConfigDict(dict(
      batch_size=256, evaluation_batch_size=128, reestimation_batches=2,
      bit_selection=dict(epochs=2, meta_only_epochs=1), checkpoints=dict(every_steps=2), data=dict(image_size=8),
      network=dict(options=dict(stem_channels=8, blocks=((1, 8, 1, 1), (2, 8, 1, 2)), last_channels=16)),
      pretraining=dict(epochs=1), stage_a=dict(epochs=1), stage_b=dict(epochs=1)))
  sweep.fixed.data.data_dir = ml_collections.config_dict.placeholder(str)
  return sweep.lock()
