"""One process at a time works on a folder; what a killed process left is taken over."""

import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

from metamix_jax import experiment
from metamix_jax.errors import UserError
from metamix_jax.records import folder_lock, multihost, workdir
from metamix_jax.training.context import prepare
from tests.helpers.configs import tiny_config
from tests.helpers.files import ROOT

HOLDER = """
import pathlib, sys, time
from metamix_jax.records import folder_lock
with folder_lock.hold(pathlib.Path(sys.argv[1])):
  print("held", flush=True)
  sys.stdin.read()
"""


def start_holder(folder):
  """A process that holds a folder until its stdin is closed."""
  process = subprocess.Popen(
      [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
  assert process.stdout.readline() == "held\n"
  return process


@pytest.fixture
def held(tmp_path):
  """A folder and the process that holds it."""
  process = start_holder(tmp_path / "run")
  yield tmp_path / "run", process
  process.kill()
  process.communicate()


def sentence(process):
  return (rf"in use by process {process.pid} on {re.escape(socket.gethostname())} since "
          r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d; wait until it ends, stop it, or choose another workdir\.$")


def test_a_second_process_is_refused_until_the_first_ends(held):
  folder, process = held
  with pytest.raises(UserError, match=sentence(process)), folder_lock.hold(folder):
    pass
  assert folder_lock.is_held(folder)
  assert json.loads((folder / "lock").read_text())["pid"] == process.pid
  process.communicate()
  assert not folder_lock.is_held(folder) and not folder.exists()
  with folder_lock.hold(folder):
    assert json.loads((folder / "lock").read_text())["pid"] == os.getpid()


def test_what_a_killed_process_left_is_taken_over(held):
  folder, process = held
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert json.loads((folder / "lock").read_text())["pid"] == process.pid
  assert not folder_lock.is_held(folder)
  with folder_lock.hold(folder):
    assert json.loads((folder / "lock").read_text())["pid"] == os.getpid()
  assert not (folder / "lock").exists()


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"pid": 1}', "\x00"])
def test_the_content_of_the_file_decides_nothing(content, tmp_path, held):
  (tmp_path / "lock").write_text(content)
  with folder_lock.hold(tmp_path):
    assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
  folder, _ = held
  (folder / "lock").write_text(content)
  with pytest.raises(UserError, match="in use by another process; wait"), folder_lock.hold(folder):
    pass


def test_a_thread_may_hold_a_folder_twice_and_another_thread_may_not(tmp_path):
  refused = []

  def hold_too():
    try:
      with folder_lock.hold(tmp_path):
        pass
    except UserError as error:
      refused.append(str(error))

  with folder_lock.hold(tmp_path):
    with folder_lock.hold(tmp_path / "." / "x" / ".."):
      pass
    assert (tmp_path / "lock").exists()  # Still held by the outer one.
    thread = threading.Thread(target=hold_too)
    thread.start()
    thread.join()
  assert len(refused) == 1 and f"in use by process {os.getpid()} on" in refused[0]


def test_a_folder_that_was_made_for_nothing_is_removed_and_others_stay(tmp_path):
  with folder_lock.hold(tmp_path / "new"):
    pass
  (tmp_path / "old").mkdir()
  with folder_lock.hold(tmp_path / "old"):
    pass
  with folder_lock.hold(tmp_path / "full"):
    (tmp_path / "full" / "config.json").touch()
  assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
      "full", "full/config.json", "old"]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(UserError, match="file/run cannot be used .Not a directory.; choose a folder that can be written"
                     ), folder_lock.hold(tmp_path / "file" / "run"):
    pass


def _take_turns(folder, rounds, inside, most):
  for _ in range(rounds):
    try:
      with folder_lock.hold(folder):
        with inside.get_lock():
          inside.value += 1
          most.value = max(most.value, inside.value)
        with inside.get_lock():
          inside.value -= 1
    except UserError:
      pass


@pytest.mark.slow
def test_files_that_are_deleted_and_made_again_let_nobody_in(tmp_path):
  """Four processes make, lock and delete the same file: never are two of them inside."""
  context = multiprocessing.get_context("spawn")
  inside, most = context.Value("i", 0), context.Value("i", 0)
  processes = [context.Process(target=_take_turns, args=(tmp_path / "run", 50, inside, most)) for _ in range(4)]
  for process in processes:
    process.start()
  for process in processes:
    process.join()
  assert [process.exitcode for process in processes] == [0] * 4
  assert most.value == 1


def test_only_the_first_of_several_processes_locks(held, monkeypatch):
  """The others do not look at the file, and are told when the first one is refused."""
  folder, process = held
  monkeypatch.setattr(multihost, "is_lead_process", lambda: False)
  with workdir.hold_workdir(folder):
    pass
  monkeypatch.setattr(multihost, "total", lambda count: count + 1)  # The first process was refused.
  with pytest.raises(UserError, match="^another process of this run has failed"), workdir.hold_workdir(folder):
    pass
  monkeypatch.setattr(multihost, "is_lead_process", lambda: True)
  with pytest.raises(UserError, match=sentence(process)), workdir.hold_workdir(folder):
    pass


def test_a_second_run_touches_nothing(held, data_dir):
  folder, process = held
  with pytest.raises(UserError, match=sentence(process)):
    experiment.run(prepare(tiny_config(data_dir)), folder)
  assert [path.name for path in folder.iterdir()] == ["lock"]


@pytest.mark.parametrize("command", [
    ("-m", "metamix_jax.main", "--config=configs/digits.py", "--config.data.data_dir=not_there"),
    ("scripts/sweep.py", "--config=configs/sweeps/digits_targets.py")])
def test_a_second_command_is_one_sentence(command, held):
  """Before the data are looked at: they are not there."""
  folder, process = held
  result = subprocess.run(
      [sys.executable, *command, f"--workdir={folder}"], capture_output=True, text=True, cwd=ROOT, check=False)
  assert result.returncode == 2
  assert re.fullmatch(rf"\w+: workdir {re.escape(str(folder))} is {sentence(process)[:-1]}\n", result.stderr)
  assert [path.name for path in folder.iterdir()] == ["lock"]
