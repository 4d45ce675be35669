"""How runs and sweeps are asked to stop: by signals, by the end of a sweep; and what a second signal does."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from metamix_jax.records.interruption import EXIT_INTERRUPTED, SIGNALS, STOP_PIPE, StopRequest
from metamix_jax.reporting import sweep, sweep_execution
from tests.helpers.files import ROOT
from tests.helpers.interrupted_runs import start

# Steps of a twentieth of a second until it is asked to stop; then it saves, which takes as long as argv[1] says.
LISTENER = """
import sys, time
from metamix_jax.records.interruption import StopRequest
request = StopRequest()
request.listen_for_signals()
request.listen_to_parent()
print("listening", flush=True)
while not request.requested:
  time.sleep(0.05)
print("saving", flush=True)
time.sleep(float(sys.argv[1]))
print("saved", flush=True)
sys.exit(75)
"""
# As a compilation does: the main thread is in C for minutes, where Python's handlers do not run.
BUSY = """
import hashlib
from metamix_jax.records.interruption import StopRequest
StopRequest().listen_for_signals()
print("listening", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""
# A parent as a sweep is: it has a child of LISTENER, prints its process id, and asks it to stop when it is asked.
PARENT = """
import pathlib, sys, types
from metamix_jax.records.interruption import StopRequest
from metamix_jax.reporting import sweep_execution
request = StopRequest()
request.listen_for_signals()
run = types.SimpleNamespace(arguments=("-c", sys.argv[1], "0.3"), folder=pathlib.Path(sys.argv[2]))
sys.exit(sweep_execution.run_in_process(run, request))
"""


def start_python(*arguments, under=(), **options):
  process = subprocess.Popen(
      [*under, sys.executable, "-c", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT, text=True, cwd=ROOT, **options)
  assert process.stdout.readline() == "listening\n"
  return process


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_lets_it_save(number):
  process = start_python(LISTENER, "0")
  process.send_signal(number)
  assert process.communicate(timeout=60) == ("saving\nsaved\n", None)
  assert process.returncode == EXIT_INTERRUPTED


@pytest.mark.parametrize("first, second", [
    (signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGTERM), (signal.SIGHUP, signal.SIGTERM)])
def test_a_second_signal_ends_it_at_once(first, second):
  process = start_python(LISTENER, "600")
  process.send_signal(first)
  assert process.stdout.readline() == "saving\n"
  time.sleep(1.2)
  process.send_signal(second)
  assert process.communicate(timeout=60) == ("", None)
  assert process.returncode == -second


def test_a_second_signal_ends_a_compilation():
  process = start_python(BUSY)
  process.send_signal(signal.SIGINT)
  time.sleep(1.2)
  assert process.poll() is None
  process.send_signal(signal.SIGINT)
  assert process.wait(timeout=60) == -signal.SIGINT
  process.stdout.close()


def test_signals_of_one_event_are_one():
  """As of a terminal that closes: the kernel sends SIGHUP, and the shell does."""
  process = start_python(LISTENER, "1.5")
  process.send_signal(signal.SIGHUP)
  assert process.stdout.readline() == "saving\n"
  for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    process.send_signal(number)
  assert process.communicate(timeout=60) == ("saved\n", None)
  assert process.returncode == EXIT_INTERRUPTED


def test_nohup_keeps_its_meaning():
  process = start_python(LISTENER, "0", under=("nohup",))
  process.send_signal(signal.SIGHUP)
  time.sleep(0.5)
  assert process.poll() is None
  process.send_signal(signal.SIGINT)
  assert process.communicate(timeout=60) == ("saving\nsaved\n", None)


@pytest.mark.parametrize("text", [None, "", "x", "-1", "999999", "9" * 30])
def test_without_a_pipe_nothing_is_requested(text, monkeypatch):
  if text is not None:
    monkeypatch.setenv(STOP_PIPE, text)
  request = StopRequest()
  request.listen_to_parent()
  assert not request.requested and STOP_PIPE not in os.environ


def test_the_end_of_a_pipe_is_a_request(monkeypatch):
  reader, writer = os.pipe()
  monkeypatch.setenv(STOP_PIPE, str(reader))
  request = StopRequest()
  request.listen_to_parent()
  assert not request.requested
  os.close(writer)
  assert request.requested and request.requested
  os.close(reader)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_child_of_a_sweep_saves_when_the_sweep_is_stopped_or_killed(number, tmp_path):
  process = start_python(PARENT, LISTENER, str(tmp_path))  # Its stdout is the child's, and ends with both.
  process.send_signal(number)
  assert process.communicate(timeout=60) == ("saving\nsaved\n", None)
  assert process.returncode == (EXIT_INTERRUPTED if number == signal.SIGTERM else -signal.SIGKILL)


def test_ctrl_c_reaches_the_sweep_and_its_child_and_both_save(tmp_path):
  """The terminal sends it to the whole group, and the sweep then asks its child as well: that is one request."""
  process = start_python(PARENT, LISTENER, str(tmp_path), start_new_session=True)
  os.killpg(process.pid, signal.SIGINT)
  assert process.communicate(timeout=60) == ("saving\nsaved\n", None)
  assert process.returncode == EXIT_INTERRUPTED


def test_the_next_sweep_waits_for_the_run_that_is_leaving(monkeypatch, tmp_path):
  """Of a killed sweep; the wait ends with the patience, and with a request to stop."""
  answers = iter([True, True, False])
  monkeypatch.setattr(sweep_execution.folder_lock, "is_held", lambda folder: next(answers))
  monkeypatch.setattr(sweep_execution, "_POLL_SECONDS", 0.01)
  run = sweep.SweepRun({}, None, tmp_path, ("-c", "raise SystemExit(3)"))
  assert sweep_execution.run_in_process(run, StopRequest()) == 3
  assert next(answers, "asked until it was free") == "asked until it was free"
  monkeypatch.setattr(sweep_execution.folder_lock, "is_held", lambda folder: True)
  monkeypatch.setattr(sweep_execution, "_PATIENCE_SECONDS", 0.1)
  assert sweep_execution.run_in_process(run, StopRequest()) == 3


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_run_saves_its_step_and_goes_on_after_it(number, data_dir, tmp_path):
  process = start(tmp_path, data_dir, 1, "--config.checkpoints.every_steps=1000")
  for line in process.stdout:
    if line.startswith("bit_selection: step"):
      process.send_signal(number)
      break
  output, _ = process.communicate()
  assert process.returncode == EXIT_INTERRUPTED and "Traceback" not in output, output
  step = re.search(r"stopped after step (\d+)/30 of bit_selection; the same command continues", output)[1]
  process = start(tmp_path, data_dir, 1, "--config.checkpoints.every_steps=1000")
  output, _ = process.communicate()
  assert process.returncode == 0 and f"bit_selection: continued after step {step}, from" in output, output


@pytest.mark.slow
def test_a_killed_sweep_leaves_no_run_and_the_next_start_continues_it(data_dir, tmp_path):
  command = [sys.executable, "scripts/sweep.py", "--config=tests/helpers/tiny_sweep.py", f"--workdir={tmp_path}/sweep",
             f"--config.fixed.data.data_dir={data_dir}", "--config.fixed.checkpoints.every_steps=1000",
             "--config.grid.seed=(0,)", "--config.grid.arch.target_gbops=(0.0008,)"]
  options = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
                 env=os.environ | {"PYTHONUNBUFFERED": "1", "XLA_FLAGS": ""})
  process = subprocess.Popen(command, **options)
  for line in process.stdout:
    if line.startswith("bit_selection: step"):
      process.kill()
      break
  again = subprocess.Popen(command, **options)  # At once, while the run of the killed sweep is saving.
  output, _ = process.communicate()
  step = re.search(r"stopped after step (\d+)/10 of bit_selection; the same command continues", output)[1]
  output, _ = again.communicate()
  assert again.returncode == 0 and f"bit_selection: continued after step {step}, from" in output, output
