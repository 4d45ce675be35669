"""The configs of the repository, as they are and at a size for tests."""

import pathlib

import ml_collections

from metamix_jax.training import context
from tests.helpers.files import ROOT, load_module


def digits_config() -> ml_collections.ConfigDict:
  """Loads configs/digits.py."""
  return load_module(ROOT / "configs" / "digits.py").get_config()


def imagenet_config(name: str) -> ml_collections.ConfigDict:
  """Loads configs/imagenet.py:NAME."""
  return load_module(ROOT / "configs" / "imagenet.py").get_config(name)


def tiny_config(data_dir: str | pathlib.Path) -> ml_collections.ConfigDict:
  """Shrinks the digits config to a run of seconds: a network of two blocks, one or two epochs a phase."""
  config = digits_config()
  config.data.data_dir = str(data_dir)
  config.data.image_size = 8
  config.batch_size, config.evaluation_batch_size, config.reestimation_batches = 256, 128, 2
  with config.network.options.unlocked():
    config.network.options.update(stem_channels=8, blocks=((1, 8, 1, 1), (2, 8, 1, 2)), last_channels=16)
  config.arch.target_gbops = 0.0008
  config.pretraining.epochs = config.stage_a.epochs = config.stage_b.epochs = 1
  config.bit_selection.epochs, config.bit_selection.meta_only_epochs = 2, 1
  return config


def middle_target(config: ml_collections.ConfigDict) -> float:
  """Returns a target, in GBOPs, that the network of a config can reach."""
  return sum(context.attainable_range(context.networks_without_data(config)[0].layers)) / 2
