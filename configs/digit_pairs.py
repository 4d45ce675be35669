"""MetaMix end to end on digit pairs, a data set on which bits matter, on any CPU.

Command: python -m metamix_jax.main --config=configs/digit_pairs.py --workdir=runs/digit_pairs
Source: the phases of the MobileNetV3 experiment of the public MetaMix release, scaled down to 6,400 training images;
  the other values are those of configs/digits.py where none is given here. docs/evidence-data.md describes the data.
Expected: full precision 79 to 81.6 % on the 5,000 test images (standard error 0.55 points; five seeds), and 81.4 % with
  quantised weights at 0.0697 GBOPs, 10 % below all layers at 4 bits (one seed). docs/evidence.md has the figures.
  VERIFIED: scripts/test.sh -m slow tests/test_published_accuracy.py -k digit_pairs.
"""

import pathlib

import ml_collections

from metamix_jax.config_file import load_config


def get_config() -> ml_collections.ConfigDict:
  """Returns configs/digits.py with the values that digit pairs need."""
  config = load_config(pathlib.Path(__file__).with_name("digits.py"))
  config.evaluation_batch_size = 500  # 5,000 test images in ten batches.
  config.evaluate_every_epochs = 4

  config.data.name = "digit_pairs/small"
  config.data.image_size = 32
  config.data.mean = (0.216,)
  config.data.std = (0.207,)

  # MobileNetV2's shape with 21 searched layers. Blocks: expansion, channels, repeats, stride.
  config.network.options = ml_collections.ConfigDict(dict(
      stem_stride=2, stem_channels=16, blocks=((1, 16, 1, 1), (4, 24, 2, 1), (4, 32, 2, 2), (4, 48, 2, 2)),
      last_channels=192))

  # All searched layers at 3 bits cost 0.0587 GBOPs, at 4 bits 0.0771, at 8 bits 0.1506.
  config.arch.target_gbops = (0.07, 0.08, 0.09)
  config.arch.train_targets = (0.07,)  # The one below 4 bits everywhere; the curve has all three.

  config.pretraining.epochs = 16
  config.bit_selection.epochs = 6
  config.bit_selection.meta_only_epochs = 2
  return config
