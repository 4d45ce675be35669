"""MetaMix end to end on scikit-learn's handwritten digits, on any CPU.

Command: python -m metamix_jax.main --config=configs/digits.py --workdir=runs/digits
Source: the phases of the MobileNetV3 experiment of the public MetaMix release, scaled down to 1,347 training
  images; every value below is our choice for this data set.
Expected: full precision and final top-1 of 98 to 100 % on the 450 test images; the README has the figures of a run.
  VERIFIED: scripts/test.sh -m slow tests/test_published_accuracy.py -k digits.
"""

import pathlib

import ml_collections

from metamix_jax.config_file import load_config


def get_config() -> ml_collections.ConfigDict:
  """Returns configs/base.py with the values that the digits need."""
  config = load_config(pathlib.Path(__file__).with_name("base.py"))
  config.batch_size = 64
  config.evaluation_batch_size = 150  # 450 test images in three batches.
  config.reestimation_batches = 8
  config.evaluate_every_epochs = 5
  config.log_every_seconds = 5.0
  config.checkpoints.every_steps = 500
  config.metrics.every_steps = 10

  config.data.name = "digits"
  config.data.evaluation_split = "test"
  config.data.image_size = 16
  config.data.mean = (0.305,)
  config.data.std = (0.376,)
  config.data.augmentation = "shift"
  config.data.max_shift = 1
  config.data.flip_probability = 0.0  # A mirrored digit is not a digit.
  config.data.evaluation_short_side = None  # The whole image, no crop.

  # MobileNetV2's shape with 15 searched layers. Blocks: expansion, channels, repeats, stride.
  config.network.name = "mobilenet_v2"
  config.network.options = ml_collections.ConfigDict(dict(
      stem_stride=1, stem_channels=16, blocks=((1, 16, 1, 1), (4, 24, 2, 2), (4, 32, 2, 2)), last_channels=128))

  config.arch.target_gbops = 0.025
  config.arch.learning_rate = 3e-2  # The release searches for 5,000 steps; here are 126.
  config.arch.final_learning_rate = 0.0  # A constant rate leaves the cost swinging between 0.023 and 0.043 GBOPs.

  config.pretraining.epochs = 25
  config.bit_selection.epochs = 10
  config.bit_selection.meta_only_epochs = 4
  config.bit_selection.learning_rate = 5e-4
  config.stage_a.epochs = 8
  config.stage_a.learning_rate = 1e-3
  config.stage_b.epochs = 20
  config.stage_b.learning_rate = 1e-3
  return config
