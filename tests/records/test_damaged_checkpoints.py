"""Checkpoints cut in each of their files: the numbers of some step, exactly, or none.

The slow test cuts at every byte: scripts/test.sh -m slow tests/records/test_damaged_checkpoints.py
"""

import itertools
import shutil

import jax
import numpy as np
import pytest

from metamix_jax.records.checkpoints import PhaseCheckpoints, StepCheckpoints
from metamix_jax.records.clock import Clock

# Orbax leaves coroutines behind where a file is damaged, and they complain about their closed event loop.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def state_of(step):
  return {"meta": {"kernel": np.full((3, 4), step, np.float32) + np.arange(4, dtype=np.float32) / 8,
                   "step": np.int32(step)}}


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
  """Checkpoints of the steps 2 and 4."""
  folder = tmp_path_factory.mktemp("steps") / "stage_a"
  checkpoints = StepCheckpoints(folder, "stage_a", Clock(), max_to_keep=2)
  for step in 2, 4:
    checkpoints.save(step, state_of(step))
  checkpoints.close()
  return folder


def check_step(steps, path, content):
  """Restores with one file of step 4 damaged, and puts everything back."""
  copy = steps.parent / "copy"
  shutil.rmtree(copy, ignore_errors=True)
  shutil.copytree(steps, copy / "stage_a")
  (copy / "stage_a" / path).write_bytes(content)
  checkpoints = StepCheckpoints(copy / "stage_a", "stage_a", Clock(), max_to_keep=2)
  restored, step = checkpoints.restore(state_of(0))
  checkpoints.close()
  assert step in (2, 4)
  jax.tree.map(np.testing.assert_array_equal, restored, state_of(step))


def files_of_step(steps):
  return sorted(path.relative_to(steps) for path in (steps / "4").rglob("*") if path.is_file())


def test_a_checkpoint_cut_in_each_of_its_files(steps):
  for path in files_of_step(steps):
    content = (steps / path).read_bytes()
    check_step(steps, path, content[:len(content) // 2])


@pytest.mark.slow
def test_a_checkpoint_cut_at_every_byte(steps):
  for path in files_of_step(steps):
    content = (steps / path).read_bytes()
    for length in range(len(content)):
      check_step(steps, path, content[:length])


def test_a_finished_phase_cut_in_each_of_its_files(tmp_path):
  """Its numbers, exactly, or none; what cannot be read is set aside, not deleted."""
  for number in itertools.count():
    checkpoints = PhaseCheckpoints(tmp_path / str(number))
    checkpoints.save("stage_a", state_of(3), {"best": None, "seconds": 1.0})
    files = sorted(path for path in checkpoints.folder.rglob("*") if path.is_file())
    if number >= len(files):  # Orbax does not always write as many.
      break
    files[number].write_bytes(files[number].read_bytes()[:files[number].stat().st_size // 2])
    restored = checkpoints.restore("stage_a", state_of(0))
    if restored is None:
      assert (checkpoints.folder / "stage_a.unreadable").is_dir()
    else:
      jax.tree.map(np.testing.assert_array_equal, restored[0], state_of(3))
  assert number > 3
