"""A network of the user's own through all phases, with nothing registered anywhere."""

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
from tests.test_experiment import ROOT, data_dir, digits_config  # pylint: disable=unused-import  The fixture.


# As a user starts it, without the fake devices of the tests.
ONE_DEVICE = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}


def test_the_readme_shows_the_tested_network():
  source = (ROOT / "tests" / "own_network.py").read_text()
  assert "```python\n" + source[source.index("from flax"):] + "```" in (ROOT / "README.md").read_text()


def test_the_readmes_command_goes_through_all_phases(data_dir, tmp_path):
  """The command as it stands there, but for the folder and shorter phases."""
  command, = re.findall(r"^(python -m metamix_jax\.main --config=configs/own_network\.py) --workdir=", (
      ROOT / "README.md").read_text(), re.MULTILINE)
  short = ("pretraining.epochs=1", "bit_selection.epochs=2", "bit_selection.meta_only_epochs=1", "stage_a.epochs=1",
           "stage_b.epochs=1", f"data.data_dir={data_dir}")
  subprocess.run(
      [sys.executable, *command.split()[1:], f"--workdir={tmp_path}", *(f"--config.{field}" for field in short)],
      cwd=ROOT, env=ONE_DEVICE, check=True)
  summary = json.loads((tmp_path / "report" / "summary.json").read_text())
  assert set(summary["selected"]) == {"conv_0", "conv_1"}
  # MACs on 16 x 16 images: 16*16*16*9, 8*8*16*16*9, 4*4*32*16*9, 32*10.
  expected = (8 * 8 * (36864 + 320) + 4 * 4 * (147456 + 73728)) / 1e9
  assert summary["uniform_gbops"]["4"] == pytest.approx(expected, rel=1e-12)
  assert summary["selected_gbops"] <= 0.006
  assert 0 < summary["final_top1"] <= 100


@pytest.mark.parametrize("command", [
    ("-P", "-c", "from metamix_jax.main import run; run()", "--workdir=run"), (str(ROOT / "scripts" / "bops.py"),)])
def test_a_network_of_the_current_folder_is_found(command, data_dir, tmp_path):
  """By the console command and by a script: both come as far as its options."""
  (tmp_path / "my_network.py").write_text((ROOT / "tests" / "own_network.py").read_text())
  (tmp_path / "my_config.py").write_text(
      (ROOT / "configs" / "own_network.py").read_text().replace("tests.own_network", "my_network")
      .replace("features=(16, 32)", "width=1").replace("from configs import digits", "import digits"))
  (tmp_path / "digits.py").write_text((ROOT / "configs" / "digits.py").read_text())
  result = subprocess.run(
      [sys.executable, *command, "--config=my_config.py", f"--config.data.data_dir={data_dir}"], cwd=tmp_path,
      env=ONE_DEVICE, capture_output=True, text=True)
  assert result.returncode == 2, result.stderr
  assert "config.network.options.width is not a field of my_network:PlainNetwork; allowed are features" in result.stderr


# Batch norms: one for each width of the own network, one for each of ResNet-18's 20 convolutions, the others' stem and
# head, and what the blocks of MobileNetV2 (50) and MobileNetV3 (44, 32) have.
@pytest.mark.parametrize("name, count", [
    ("tests.own_network:PlainNetwork", 2), ("resnet18", 20), ("mobilenet_v2", 52), ("mobilenet_v3_large", 46),
    ("mobilenet_v3_small", 34)])
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
