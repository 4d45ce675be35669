"""What differs between two instruction sets, on arrays by hand; the processes that measure are replaced."""

import json
import pathlib
import subprocess

import numpy as np
import pytest

from metamix_jax.errors import UserError
from tests.helpers.claims import instruction_sets
from tests.helpers.configs import digits_config
from tests.helpers.saved_runs import write_run


@pytest.fixture(scope="module")
def script():
  return instruction_sets


def arrays(bits, losses, correct):
  return {
      "bits": np.array(bits), "all at 3 bits": np.array(losses, np.float32), "correct/all at 3 bits": np.array(correct)}


def test_difference(script):
  first = arrays([3, 4, 8], [1.0, 2.0, 0.5, 0.5], [True, False, True, True])
  other = arrays([3, 8, 8], [1.5, 2.0, 0.0, 1.0], [False, True, True, True])
  result = script.difference(other, first)
  assert (result["equal_bits"], result["layers"]) == (2, 3)
  assert result["assignments"] == {"all at 3 bits": {
      "loss": 1.125, "top1": 75.0, "mean": 0.125, "spread": pytest.approx(np.std([0.5, 0, -0.5, 0.5])),
      "predictions": 50.0}}
  same = script.difference(first, first)["assignments"]["all at 3 bits"]
  assert (same["mean"], same["spread"], same["predictions"]) == (0, 0, 0)


def test_table(script):
  first = arrays([3, 4], [1.0, 2.0], [True, True])
  entries = []
  for change, bits in ((0.25, [3, 4]), (-0.5, [3, 3])):
    other = arrays(bits, [1.0 + change, 2.0 + change], [True, False])
    entries.append({"sets": {"NEW": script.difference(first, first), "OLD": script.difference(other, first)}})
  assert script.table(entries).splitlines()[2:] == [
      "| all at 3 bits | OLD | -0.1250, -0.5000 | 0.000 | -50.00 | 50.0 % |", "",
      "Layers in which the search under OLD selects the bits of NEW, by run: 2 of 2, 1 of 2."]


@pytest.fixture
def run_folder(tmp_path):
  config = digits_config()
  config.arch.target_gbops = (0.021, 0.032)
  write_run(folder := tmp_path / "run", config, 10, 1)
  return folder


def test_a_process_for_each_set_whose_limit_comes_last(script, run_folder, monkeypatch):
  flags, status = [], 0

  def run(command, env, check):
    flags.append(env["XLA_FLAGS"])
    assert command[2] == str(run_folder) and not check
    file = pathlib.Path(command[3].removeprefix("--measure="))
    change = 0.25 * (len(flags) - 1)
    written = arrays([3, 4], [1.0 + change, 2.0], [True, True])
    with file.open("wb") as opened:
      np.savez(opened, **written, **{script.SELECTED: np.zeros(2), f"correct/{script.SELECTED}": np.ones(2, bool)})
    return subprocess.CompletedProcess(command, status)

  monkeypatch.setenv("XLA_FLAGS", "--xla_of_mine")
  monkeypatch.setattr(script.subprocess, "run", run)
  monkeypatch.setattr(script, "describe_processor", lambda: "one with all")
  entry = script.compare(run_folder)
  assert flags == [f"--xla_of_mine --xla_cpu_max_isa={name}" for name in ("AVX512", "AVX2", "AVX", "SSE4_2")]
  entry = json.loads(json.dumps(entry))
  assert (entry["target"], entry["num_images"], entry["processor"]) == (0.021, 2, "one with all")
  assert "data.data_dir" not in entry["config"] and entry["config"]["arch.target_gbops"] == [0.021, 0.032]
  means = {name: found["assignments"]["all at 3 bits"]["mean"] for name, found in entry["sets"].items()}
  assert means == {"AVX512": 0, "AVX2": 0.125, "AVX": 0.25, "SSE4_2": 0.375}
  status = 1
  with pytest.raises(UserError, match="the measurement under AVX512 ended with status 1"):
    script.compare(run_folder)


def test_a_processor_without_a_set_is_refused(script, monkeypatch):
  monkeypatch.setattr(pathlib.Path, "exists", lambda path: True)
  monkeypatch.setattr(pathlib.Path, "read_text", lambda path, encoding: (
      "processor\t: 0\nmodel name\t: A processor\nflags\t\t: fpu sse4_2 avx avx2\n"))
  with pytest.raises(UserError, match="has no avx512f in /proc/cpuinfo; all of AVX512, AVX2, AVX, SSE4_2 are needed"):
    script.describe_processor()
  monkeypatch.setattr(pathlib.Path, "read_text", lambda path, encoding: (
      "model name\t: A processor\nflags\t\t: fpu sse4_2 avx avx2 avx512f\n"))
  assert script.describe_processor() == "A processor"
