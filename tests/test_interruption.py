"""Runs that are killed and started again with the same command end in the same network; nothing saved is lost."""

import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from metamix_jax import experiment, loop
from tests.test_experiment import data_dir, parameters, tiny_config  # pylint: disable=unused-import  The fixture.

ROOT = pathlib.Path(__file__).parent.parent
OVERRIDES = {
    "batch_size": 256, "evaluation_batch_size": 128, "reestimation_batches": 2, "log_every_seconds": 0.01,
    "checkpoints.every_steps": 2, "data.image_size": 8, "network.options.stem_channels": 8,
    "network.options.blocks": "((1, 8, 1, 1), (2, 8, 1, 2))", "network.options.last_channels": 16,
    "arch.target_gbops": 0.0008, "pretraining.epochs": 4, "bit_selection.epochs": 4, "bit_selection.meta_only_epochs": 2,
    "stage_a.epochs": 3, "stage_b.epochs": 3}
STEPS = 5 * (4 + 4 + 3 + 3)  # 1347 // 256 = 5 steps an epoch.


def start(workdir, data_dir):
  overrides = [f"--config.{name}={value}" for name, value in (OVERRIDES | {"data.data_dir": data_dir}).items()]
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONUNBUFFERED": "1"}
  return subprocess.Popen(
      [sys.executable, "-m", "metamix_jax.main", f"--config={ROOT}/configs/digits.py", f"--workdir={workdir}", *overrides],
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=environment)


def results(workdir):
  summary = json.loads((workdir / "report" / "summary.json").read_text())
  return {name: value for name, value in summary.items() if name != "seconds"}


@pytest.fixture(scope="module")
def uninterrupted(data_dir, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("uninterrupted")
  process = start(workdir, data_dir)
  output, _ = process.communicate()
  assert process.returncode == 0, output
  return workdir


@pytest.mark.slow
@pytest.mark.parametrize("num_kills", [10, 50])
def test_killed_runs_end_in_the_same_network(num_kills, uninterrupted, data_dir, tmp_path):
  """SIGTERM and SIGKILL in turns, at random moments after random steps, saves among them: every second step saves."""
  rng, kills, output = random.Random(num_kills), 0, []
  while True:
    process = start(tmp_path, data_dir)
    # Enough kills before the end, and after SIGKILL at most two steps are repeated, so every attempt gets on.
    last_line = rng.randint(3, max(3, STEPS // num_kills))
    steps = 0
    for line in process.stdout:
      output.append(line)
      steps += bool(re.match(r"\w+: step", line))
      if kills < num_kills and steps == last_line:
        time.sleep(rng.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL if kills % 2 else signal.SIGTERM)
        kills += 1
        break
    output.extend(process.stdout)
    code = process.wait()
    text = "".join(output)
    assert "Traceback" not in text and code in (0, loop_exit_code(), -signal.SIGKILL), text
    if code == 0:
      break
  assert kills >= num_kills * 0.8, f"only {kills} kills before the end"
  assert results(tmp_path) == results(uninterrupted) | {"config": results(tmp_path)["config"]}
  jax.tree.map(np.testing.assert_array_equal, parameters(tmp_path), parameters(uninterrupted))


def loop_exit_code():
  from metamix_jax import main  # pylint: disable=g-import-not-at-top  Defines flags.
  return main.EXIT_INTERRUPTED


class StopAfter(loop.Saving):
  """Asks to stop once this many steps were checked."""

  def __init__(self, folder, steps):
    self.left = steps
    super().__init__(folder)

  @property
  def stop_requested(self):
    self.left -= 1
    return self.left < 0

  @stop_requested.setter
  def stop_requested(self, value):
    pass


def test_stopped_runs_end_in_the_same_network(data_dir, tmp_path):
  """Stopped once in each phase and between phases; the slow test above does it with signals and processes."""
  config = tiny_config(data_dir)
  config.checkpoints.every_steps = 2
  whole = experiment.run(config, tmp_path / "whole")
  workdir, stops = tmp_path / "stopped", []
  summary = None
  for steps in (2, 5, 9, 3, 2, 4, 1000):  # Checks of stop_requested: one a step, one a phase.
    try:
      summary = experiment.run(config, workdir, StopAfter((workdir / "checkpoints").absolute(), steps))
      break
    except loop.Interrupted as interruption:
      stops.append(str(interruption))
  assert len(stops) >= 4 and {stop.split()[-1] for stop in stops} >= {"pretraining", "bit_selection"}, stops
  assert {name: value for name, value in summary.items() if name != "seconds"} == {
      name: value for name, value in whole.items() if name != "seconds"}
  jax.tree.map(np.testing.assert_array_equal, parameters(workdir), parameters(tmp_path / "whole"))


@pytest.fixture
def stopped(data_dir, tmp_path):
  """A run that stopped after step 4 of its first phase, with checkpoints of steps 2 and 4."""
  config = tiny_config(data_dir)
  config.checkpoints.every_steps = 2
  workdir = tmp_path / "run"
  with pytest.raises(loop.Interrupted, match="stopped after step 4/5 of pretraining"):
    experiment.run(config, workdir, StopAfter(workdir.absolute() / "checkpoints", 3))
  assert sorted(path.name for path in (workdir / "checkpoints" / "steps" / "pretraining").iterdir()) == ["2", "4"]
  return config, workdir


@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(stopped, damage, caplog):
  config, workdir = stopped
  newest = workdir / "checkpoints" / "steps" / "pretraining" / "4"
  files = [path for path in (newest / "state").rglob("*") if path.is_file() and path.stat().st_size]
  for path in files:
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2]) if damage == "truncate" else path.unlink()
  with pytest.raises(loop.Interrupted, match="stopped after step 3/5"):
    experiment.run(config, workdir, StopAfter((workdir / "checkpoints").absolute(), 0))
  messages = [record.message for record in caplog.records]
  assert any("the checkpoint of step 4" in message and "is damaged" in message for message in messages)


def test_a_checkpoint_that_cannot_be_written(stopped, monkeypatch):
  config, workdir = stopped
  def full(*args, **kwargs):
    raise OSError(28, "No space left on device")
  monkeypatch.setattr(ocp.CheckpointManager, "save", full)
  with pytest.raises(ValueError, match=r"step 5: the checkpoint cannot be written .*No space left.* is whole") as caught:
    experiment.run(config, workdir, StopAfter((workdir / "checkpoints").absolute(), 0))
  assert "\n" not in str(caught.value)
  monkeypatch.undo()
  with pytest.raises(loop.Interrupted, match="stopped after step 5/5"):
    experiment.run(config, workdir, StopAfter((workdir / "checkpoints").absolute(), 0))


def test_a_loss_that_is_not_finite_stops_the_run(data_dir, tmp_path):
  config = tiny_config(data_dir)
  config.pretraining.learning_rate = 1e38
  with pytest.raises(ValueError, match=r"pretraining, step 2: the training loss or its gradient is not finite, first "
                     r"in the .*; nothing after step 1 was kept") as caught:
    experiment.run(config, tmp_path)
  assert "\n" not in str(caught.value)
