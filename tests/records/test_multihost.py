"""Several processes: their flags, and what one of them sees alone."""

import json
import os
import re
import socket
import subprocess
import sys

import pytest

from metamix_jax.errors import UserError
from metamix_jax.records import multihost
from tests.helpers.files import ROOT


@pytest.mark.parametrize("flags, sentence", [
    (("host:1", 2, None),
     "--process_id is missing; --coordinator_address, --num_processes and --process_id come together"),
    (("host:1", 2, 2), "--process_id is 2; allowed are 0 to 1, below --num_processes."),
])
def test_wrong_flags_of_several_processes(flags, sentence):
  with pytest.raises(ValueError, match=f"^{sentence}"):
    multihost.connect(*flags)


def test_one_process_alone_keeps_its_own_error():
  with pytest.raises(UserError, match="^own$"), multihost.failing_together():
    raise UserError("own")
  with pytest.raises(ZeroDivisionError), multihost.failing_together():
    _ = 1 / 0
  with pytest.raises(ZeroDivisionError), multihost.ending_together():
    _ = 1 / 0


def run_case(case, folder):
  """Runs tests/helpers/failing_processes.py in two processes; returns [(status, stdout, stderr)]."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
  processes = [subprocess.Popen(
      [sys.executable, "-m", "tests.helpers.failing_processes", case, str(process), "2", str(port), str(folder)],
      cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for process in range(2)]
  try:
    texts = [process.communicate(timeout=600) for process in processes]
  finally:
    for process in processes:
      process.kill()
  return [(process.returncode, *text) for process, text in zip(processes, texts, strict=True)]


def sentences(stderr):
  """Returns the lines of our own."""
  return [line for line in stderr.splitlines() if re.match("metamix_jax|failing_processes", line)]


def test_a_disk_that_only_the_first_process_looks_at(tmp_path):
  (status, _, first), (other_status, _, second) = run_case("full_disk", tmp_path)
  assert (status, other_status) == (2, 2), first + second
  sentence, = sentences(first)
  assert re.fullmatch(r"failing_processes: bit_selection: the checkpoint cannot be written to \S+ \(0\.0 MB needed, "
                      r"0\.0 MB free\); what was saved before is whole, .*", sentence)
  assert sentences(second) == ["failing_processes: another process of this run has failed, and says why."]
  assert sorted(path.name for path in tmp_path.iterdir()) == ["pretraining", "pretraining.json"]


def test_a_checkpoint_that_one_process_cannot_read(tmp_path):
  results = run_case("unreadable", tmp_path)
  for status, stdout, stderr in results:
    assert status == 0, stderr
    assert json.loads(stdout.splitlines()[-1]) == [2, [0, 2, 4, 6, 8, 10], ["stage_a_4.unreadable", "steps"]]


@pytest.mark.parametrize("case, failing, status, sentence", [
    ("own_data", 1, 2, "process 1: record b.jpg cannot be decoded"),
    ("defect", 0, 1, "process 0: KeyError, see its traceback")])
def test_the_others_end_when_one_process_does(case, failing, status, sentence, tmp_path):
  results = run_case(case, tmp_path)
  assert results[failing][0] == status and results[1 - failing][0] == 2, results
  assert sentences(results[1 - failing][2]) == [f"metamix_jax: {sentence}"]


def test_steps_of_several_phases_are_counted_on(tmp_path):
  results = run_case("questions", tmp_path)
  assert [(status, json.loads(stdout.splitlines()[-1])) for status, stdout, _ in results] == [(0, [False] * 6)] * 2
