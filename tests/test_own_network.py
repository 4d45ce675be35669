"""The README's own network: all phases from its very files and command, and found wherever a command starts."""

import json
import os
import re
import subprocess
import sys

from flax import linen as nn
import jax
import jax.numpy as jnp
import pytest

from metamix_jax.nn.batch_norm import BatchNorm
from metamix_jax.training import context
from metamix_jax.training.steps import AXIS
from tests.helpers.configs import digits_config
from tests.helpers.files import ROOT

README = (ROOT / "README.md").read_text()
NETWORK, CONFIG = (
    next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if needle in block)
    for needle in ("class PlainNetwork", "my_network:PlainNetwork"))
# As a user starts it, without the fake devices of the tests.
ONE_DEVICE = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}


@pytest.fixture
def folder(tmp_path):
  """What the README asks for: its two files beside configs/."""
  (tmp_path / "my_network.py").write_text(NETWORK)
  (tmp_path / "my_config.py").write_text(CONFIG)
  (tmp_path / "configs").symlink_to(ROOT / "configs")
  return tmp_path


def test_the_readme_shows_the_network_of_the_tests():
  assert (ROOT / "tests" / "helpers" / "own_network.py").read_text().endswith(f'"""\n\n{NETWORK}')


@pytest.mark.slow
def test_the_readmes_command_goes_through_all_phases(folder, data_dir):
  """The command as it stands there, with shorter phases."""
  command, = re.findall(r"`python (-m metamix_jax\.main --config=my_config\.py --workdir=runs/own)`", README)
  short = ("pretraining.epochs=1", "bit_selection.epochs=2", "bit_selection.meta_only_epochs=1", "stage_a.epochs=1",
           "stage_b.epochs=1", f"data.data_dir={data_dir}")
  arguments = [*command.split(), *(f"--config.{field}" for field in short)]
  subprocess.run([sys.executable, *arguments], cwd=folder, env=ONE_DEVICE, check=True)
  summary = json.loads((folder / "runs" / "own" / "report" / "summary.json").read_text())
  target, = summary["targets"]
  assert set(target["bits"]) == {"conv_0", "conv_1"}
  # MACs on 16 x 16 images: 16*16*16*9, 8*8*16*16*9, 4*4*32*16*9, 32*10.
  expected = (8 * 8 * (36864 + 320) + 4 * 4 * (147456 + 73728)) / 1e9
  assert {result["bits"]: result["gbops"] for result in summary["uniform"]}[4] == pytest.approx(expected, rel=1e-12)
  assert target["gbops"] <= 0.006
  assert 0 < target["final_top1"] <= 100


@pytest.mark.parametrize("command", [
    ("-P", "-c", "from metamix_jax.main import run; run()", "--workdir=run"), (str(ROOT / "scripts" / "bops.py"),)])
@pytest.mark.slow
def test_a_network_of_the_current_folder_is_found(command, folder, data_dir):
  """By the console command and by a script, with a wrong option: both have seen the fields of the class."""
  (folder / "my_config.py").write_text(CONFIG.replace('"features": (16, 32)', '"width": 1'))
  result = subprocess.run(
      [sys.executable, *command, "--config=my_config.py", f"--config.data.data_dir={data_dir}"], cwd=folder,
      env=ONE_DEVICE, capture_output=True, text=True)
  assert result.returncode == 2, result.stderr
  assert "config.network.options.width is not a field of my_network:PlainNetwork; allowed are features" in result.stderr


# Batch norms: one for each width of the own network, one for each of ResNet-18's 20 convolutions, the others' stem and
# head, and what the blocks of MobileNetV2 (50) and MobileNetV3 (44, 32) have.
@pytest.mark.parametrize("name, count", [
    ("tests.helpers.own_network:PlainNetwork", 2), ("resnet18", 20), *(pytest.param(*case, marks=pytest.mark.slow) for
        case in (("mobilenet_v2", 52), ("mobilenet_v3_large", 46), ("mobilenet_v3_small", 34)))])
@pytest.mark.parametrize("synchronized", [True, False])
def test_every_batch_norm_obeys_the_config(name, count, synchronized):
  config = digits_config()
  config.network.name, config.network.synchronized_batch_norm = name, synchronized
  with config.network.unlocked():
    config.network.options = {}
  network, _ = context.build_networks(config, num_classes=4, channels=1)
  found = []

  def record(call, args, kwargs, called):
    if isinstance(called.module, BatchNorm):
      found.append((called.module.axis_name, called.module.synchronized))
    return call(*args, **kwargs)

  with nn.intercept_methods(record):
    images = jax.ShapeDtypeStruct((1, 32, 32, 1), jnp.float32)
    jax.eval_shape(lambda x: network.module.init(jax.random.key(0), x, train=False), images)
  assert found == [(AXIS, synchronized)] * count
