"""The ImageNet configs: valid as they are, and every phase of them on generated images."""

import pytest

from metamix_jax import config as config_rules
from metamix_jax import experiment
from metamix_jax.training import context
from metamix_jax.training.context import prepare
from tests.helpers.configs import imagenet_config, middle_target

# GBOPs of the paper and of the release.
TARGETS = {"mobilenet_v2": 5.12, "mobilenet_v3_large": 3.31, "resnet18": 32.86}


@pytest.mark.parametrize("network", TARGETS)
def test_fields_are_valid_and_the_target_in_reach(network):
  config = imagenet_config(network)
  assert config.arch.target_gbops == TARGETS[network]
  assert context.penalty_weights(config) == (4.0,)
  layers = context.networks_without_data(config)[0].layers
  config_rules.check_target(config.arch.target_gbops, context.attainable_range(layers))


def test_missing_weights_are_named_with_the_command_that_makes_them():
  with pytest.raises(ValueError, match="import_torchvision.py resnet18 FILE weights/resnet18"):
    context.prepare(imagenet_config("resnet18"))


def test_unknown_experiment():
  with pytest.raises(ValueError, match="allowed are mobilenet_v2, mobilenet_v3_large, resnet18"):
    imagenet_config("resnet18-small")


@pytest.mark.slow
def test_every_phase_with_tiny_networks(tmp_path):
  """As the next test, with networks that compile quickly: crops, a teacher of its own, its weights, its type."""
  config = imagenet_config("mobilenet_v2-smoke")
  tiny = {"stem_channels": 8, "blocks": ((2, 8, 1, 2),), "last_channels": 8, "dropout_rate": 0.2}
  config.data.data_dir = str(tmp_path / "tfds")
  config.teacher.name, config.teacher.dtype = "mobilenet_v2", "bfloat16"
  for section in ("network", "teacher"):
    with config[section].unlocked():
      config[section].options = tiny
  config.arch.target_gbops = middle_target(config)
  summary = experiment.run(prepare(config), tmp_path / "run")
  target, = summary["targets"]
  assert len(target["bits"]) == 3 + 1  # The block, and the last convolution.
  assert target["gbops"] <= config.arch.target_gbops
  assert 0 <= target["final_top1"] <= 100 and summary["skipped_records"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("network", TARGETS)
def test_every_phase_on_generated_images(network, tmp_path):
  config = imagenet_config(f"{network}-smoke")
  config.data.data_dir = str(tmp_path / "tfds")
  summary = experiment.run(prepare(config), tmp_path / "run")
  target, = summary["targets"]
  assert len(target["bits"]) == {"mobilenet_v2": 51, "mobilenet_v3_large": 62, "resnet18": 19}[network]
  assert (1 - config.arch.target_tolerance) * config.arch.target_gbops <= target["gbops"] <= config.arch.target_gbops
  assert 0 <= target["final_top1"] <= 100 and summary["config"]["teacher.name"] == "resnet101"
