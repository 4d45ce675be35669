"""Runs that are killed and started again with the same command end in the same network; nothing saved is lost."""

import json
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from metamix_jax import experiment
from metamix_jax.records import interruption
from metamix_jax.training import loop
from tests.test_experiment import data_dir, parameters, tiny_config  # pylint: disable=unused-import  The fixture.

ROOT = pathlib.Path(__file__).parent.parent
OVERRIDES = {
    "batch_size": 256, "evaluation_batch_size": 128, "reestimation_batches": 2, "log_every_seconds": 0.01,
    "checkpoints.every_steps": 2, "data.image_size": 8, "network.options.stem_channels": 8,
    "network.options.blocks": "((1, 8, 1, 1), (2, 8, 1, 2))", "network.options.last_channels": 16,
    "arch.target_gbops": 0.0008, "bit_selection.meta_only_epochs": 2}
EPOCHS = {"pretraining": 6, "bit_selection": 6, "stage_a": 4, "stage_b": 5}
STEPS_PER_EPOCH = 5  # 1347 // 256.


def start(workdir, data_dir, scale, *flags, num_devices=1):
  """A process that trains; its output is in .stdout."""
  epochs = {f"{phase}.epochs": scale * count for phase, count in EPOCHS.items()}
  values = OVERRIDES | epochs | {"data.data_dir": data_dir}
  overrides = [f"--config.{name}={value}" for name, value in values.items()]
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1",
                              "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}"}
  return subprocess.Popen(
      [sys.executable, "-m", "metamix_jax.main", f"--config={ROOT}/configs/digits.py", f"--workdir={workdir}", *overrides,
       *flags],
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=environment)


def results(workdir):
  summary = json.loads((workdir / "report" / "summary.json").read_text())
  return {name: value for name, value in summary.items() if name != "seconds"}


def metrics(workdir):
  """The lines of metrics.jsonl without what is a matter of time."""
  lines = [json.loads(text) for text in (workdir / "metrics.jsonl").read_text().splitlines()]
  return [{name: value for name, value in line.items() if name not in ("wall_seconds", "images_per_second")}
          for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("num_kills, scale", [(10, 1), (50, 5)])
def test_killed_runs_end_in_the_same_network(num_kills, scale, data_dir, tmp_path):
  """SIGTERM and SIGKILL in turns, at random moments after random steps, saves among them: every second step saves."""
  whole = tmp_path / "uninterrupted"
  process = start(whole, data_dir, scale)
  output, _ = process.communicate()
  assert process.returncode == 0, output

  workdir, rng, kills, output = tmp_path / "killed", random.Random(num_kills), 0, []
  # Lines of an attempt before its kill: half of what would end the run in so many attempts, because steps go on until
  # the signal is there.
  most_lines = STEPS_PER_EPOCH * scale * sum(EPOCHS.values()) // num_kills // 2
  while True:
    process = start(workdir, data_dir, scale)
    last_line, lines = rng.randint(3, most_lines), 0
    for line in process.stdout:
      output.append(line)
      lines += bool(re.match(r"\w+: step", line))
      if kills < num_kills and lines == last_line:
        time.sleep(rng.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL if kills % 2 else signal.SIGTERM)
        kills += 1
        break
    output.extend(process.stdout)
    code = process.wait()
    text = "".join(output)
    assert "Traceback" not in text and code in (0, loop_exit_code(), -signal.SIGKILL), text
    if code == 0:
      break
  assert kills == num_kills, f"only {kills} kills before the end"
  assert results(workdir) == results(whole) | {"config": results(workdir)["config"]}
  jax.tree.map(np.testing.assert_array_equal, parameters(workdir), parameters(whole))
  assert metrics(workdir) == metrics(whole)


def loop_exit_code():
  from metamix_jax import main  # pylint: disable=g-import-not-at-top  Defines flags.
  return main.EXIT_INTERRUPTED


class StopAfter:
  """A StopRequest that is true from the question after this many on; one is asked after each step and phase."""

  def __init__(self, questions):
    self.left = questions

  @property
  def requested(self):
    self.left -= 1
    return self.left < 0


def test_stopped_runs_end_in_the_same_network(data_dir, tmp_path):
  """Stopped in each training phase and between phases, with two targets; the slow test above does it with signals and
  processes."""
  config = tiny_config(data_dir)
  config.checkpoints.every_steps, config.metrics.every_steps, config.evaluate_every_epochs = 2, 2, 1
  config.arch.target_gbops, config.arch.train_targets = (0.0008, 0.001), (0.001,)
  whole = experiment.run(config, tmp_path / "whole")
  workdir = tmp_path / "stopped"
  for questions, place in (
      (2, "step 3/5 of pretraining"), (10, "step 8/10 of bit_selection"), (4, "meta_evaluation"),
      (5, "step 3/5 of stage_a_0.001"), (6, "step 1/5 of stage_b_0.001")):
    with pytest.raises(interruption.Interrupted, match=f"^stopped after {place}$"):
      experiment.run(config, workdir, StopAfter(questions))
    with (workdir / "metrics.jsonl").open("a") as file:  # As a SIGKILL later on leaves it: ahead of the checkpoint.
      phase = place.split()[-1].replace("meta_evaluation", "stage_a_0.001")
      file.write(json.dumps({"phase": phase, "step": 9, "loss": 99.0}) + '\n{"phase": "stage_a", "st')
  summary = experiment.run(config, workdir)
  assert {name: value for name, value in summary.items() if name != "seconds"} == {
      name: value for name, value in whole.items() if name != "seconds"}
  for phase in ("bit_selection", "stage_b_0.001"):
    jax.tree.map(np.testing.assert_array_equal, parameters(workdir, phase), parameters(tmp_path / "whole", phase))
  for phase in ("bit_selection", "meta_evaluation"):
    files = [folder / "checkpoints" / f"{phase}.json" for folder in (workdir, tmp_path / "whole")]
    one, other = (json.loads(path.read_text()) | {"seconds": None} for path in files)
    assert one == other
  lines = metrics(workdir)
  assert lines == metrics(tmp_path / "whole")
  # Each second step and the last of the phases, and the evaluations after the only epoch of three of them.
  assert [line["step"] for line in lines] == [2, 4, 5, 5] + [2, 4, 6, 8, 10] + 2 * [2, 4, 5, 5]
  # Every name is in the table of docs/metrics.md, and every name there is in some line.
  table = (ROOT / "docs" / "metrics.md").read_text().partition("## Names")[2].partition("## Act")[0]
  documented = re.findall(r"^\| `([\w/]+)` \|", table, re.M)
  patterns = {name: re.compile(re.sub("TARGET|LAYER|BITS", ".+", name)) for name in documented}
  written = {name for text in (workdir / "metrics.jsonl").read_text().splitlines() for name in json.loads(text)}
  assert len(documented) == 16
  assert {name for name in written if not any(map(lambda p, name=name: p.fullmatch(name), patterns.values()))} == set()
  assert {name for name, pattern in patterns.items() if not any(map(pattern.fullmatch, written))} == set()


@pytest.fixture
def stopped(data_dir, tmp_path):
  """A run that stopped after step 4 of its first phase, with checkpoints of steps 2 and 4."""
  config = tiny_config(data_dir)
  config.checkpoints.every_steps = 2
  workdir = tmp_path / "run"
  with pytest.raises(interruption.Interrupted, match="stopped after step 4/5 of pretraining"):
    experiment.run(config, workdir, StopAfter(3))
  assert sorted(path.name for path in (workdir / "checkpoints" / "steps" / "pretraining").iterdir()) == ["2", "4"]
  return config, workdir


@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(stopped, damage, caplog):
  config, workdir = stopped
  newest = workdir / "checkpoints" / "steps" / "pretraining" / "4"
  files = [path for path in (newest / "state").rglob("*") if path.is_file() and path.stat().st_size]
  for path in files:
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2]) if damage == "truncate" else path.unlink()
  with pytest.raises(interruption.Interrupted, match="stopped after step 3/5"):
    experiment.run(config, workdir, StopAfter(0))
  messages = [record.message for record in caplog.records]
  assert any("the checkpoint of step 4 cannot be read" in message for message in messages)
  assert (workdir / "checkpoints" / "steps" / "pretraining_4.unreadable").is_dir()


@pytest.mark.slow
def test_a_full_disk(data_dir, tmp_path):
  """The system refuses every byte of every file from some step on: a sentence, status 2, and what was saved is whole.

  That is how a quota or a disk that fills up during a save looks; TensorStore's threads then print notes of their own.
  """
  process = start(tmp_path, data_dir, 1)
  for line in process.stdout:
    if re.match(r"pretraining: step [1-9]\d", line):
      resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, 0))
      break
  output, _ = process.communicate()
  assert process.returncode == 2, output
  failed = re.search(r"metamix_jax: pretraining, step (\d+): the (?:checkpoint|metrics) cannot be written to \S+ \(File too large\); what"
                     r" was saved before is whole, and the same command continues from there\.", output)
  process = start(tmp_path, data_dir, 1)
  for line in process.stdout:
    continued = re.match(r"pretraining: continued after step (\d+)", line)
    if continued:
      process.terminate()
      break
  output, _ = process.communicate()
  assert process.returncode == loop_exit_code(), output
  # The save before the one that failed may have been on its way when the disk filled.
  assert 4 <= int(continued[1]) < int(failed[1])


def test_no_room_on_the_disk(stopped, monkeypatch):
  config, workdir = stopped
  usage = shutil.disk_usage(workdir)
  monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=1000))
  with pytest.raises(ValueError, match=r"pretraining, step 5: the checkpoint cannot be written to \S+ "
                     r"\(0\.0 MB needed, 0\.0 MB free\); what was saved before is whole") as caught:
    experiment.run(config, workdir, StopAfter(0))
  assert "\n" not in str(caught.value)
  monkeypatch.undo()
  with pytest.raises(interruption.Interrupted, match="stopped after step 5/5"):
    experiment.run(config, workdir, StopAfter(0))


def test_a_loss_that_is_not_finite_stops_the_run(data_dir, tmp_path):
  config = tiny_config(data_dir)
  config.pretraining.learning_rate = 1e38
  with pytest.raises(ValueError, match=r"pretraining, step 2: the training loss or its gradient is not finite, first "
                     r"in the .*; nothing after step 1 was kept") as caught:
    experiment.run(config, tmp_path)
  assert "\n" not in str(caught.value)
