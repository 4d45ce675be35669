"""Checkpoints that are damaged, and disks without room for another one."""

import re
import resource
import shutil

import pytest

from metamix_jax import experiment
from metamix_jax.records import interruption
from metamix_jax.records.interruption import EXIT_INTERRUPTED
from metamix_jax.training.context import prepare
from tests.helpers.configs import tiny_config
from tests.helpers.interrupted_runs import StopAfter, start


@pytest.fixture
def stopped(data_dir, tmp_path):
  """A run that stopped after step 4 of its first phase, with checkpoints of steps 2 and 4."""
  config = tiny_config(data_dir)
  config.checkpoints.every_steps = 2
  workdir = tmp_path / "run"
  with pytest.raises(interruption.Interrupted, match="stopped after step 4/5 of pretraining"):
    experiment.run(prepare(config), workdir, StopAfter(3))
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
    experiment.run(prepare(config), workdir, StopAfter(0))
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
  failed = re.search(r"metamix_jax: pretraining, step (\d+): the (?:checkpoint|metrics) cannot be written to \S+ "
                     r"\(File too large\); what was saved before is whole, and the same command continues from "
                     r"there\.", output)
  process = start(tmp_path, data_dir, 1)
  for line in process.stdout:
    continued = re.match(r"pretraining: continued after step (\d+)", line)
    if continued:
      process.terminate()
      break
  output, _ = process.communicate()
  assert process.returncode == EXIT_INTERRUPTED, output
  # The save before the one that failed may have been on its way when the disk filled.
  assert 4 <= int(continued[1]) < int(failed[1])


def test_no_room_on_the_disk(stopped, monkeypatch):
  config, workdir = stopped
  usage = shutil.disk_usage(workdir)
  monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=1000))
  with pytest.raises(ValueError, match=r"pretraining, step 5: the checkpoint cannot be written to \S+ "
                     r"\(0\.0 MB needed, 0\.0 MB free\); what was saved before is whole") as caught:
    experiment.run(prepare(config), workdir, StopAfter(0))
  assert "\n" not in str(caught.value)
  monkeypatch.undo()
  with pytest.raises(interruption.Interrupted, match="stopped after step 5/5"):
    experiment.run(prepare(config), workdir, StopAfter(0))
