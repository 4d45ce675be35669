"""The compilation cache: the user's, or else the sweep's, or else the run's."""

import json
import pathlib
import subprocess
import sys

import pytest

from metamix_jax.records.interruption import StopRequest
from metamix_jax.reporting import sweep, sweep_execution
from tests.helpers.files import ROOT

VARIABLE = "JAX_COMPILATION_CACHE_DIR"
# A sweep's run that writes down what it was given.
CHILD = ("-c", f"import os, sys, pathlib; pathlib.Path(sys.argv[1]).write_text(os.environ['{VARIABLE}'])")
# The command with a run of no phases, which says the folder of the cache.
COMMAND = """
import sys
import jax
from metamix_jax import main
main.prepare = lambda config, programs_folder: None
main.experiment.run = lambda context, workdir, stop_request: print(jax.config.jax_compilation_cache_dir)
main._report = lambda workdir, targets: None
main.run()
"""
SHORT_RUN = (
    "--config=configs/digits.py", "--config.pretraining.epochs=1", "--config.bit_selection.epochs=1",
    "--config.bit_selection.meta_only_epochs=0", "--config.stage_a.epochs=1", "--config.stage_b.epochs=1")


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_a_second_run_of_a_config_loads_its_programs_and_is_the_same(devices, data_dir, tmp_path, monkeypatch):
  """What the second run loads it marks with the time, and it saves no other."""
  monkeypatch.setenv(VARIABLE, f"{tmp_path}/cache")
  monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
  monkeypatch.setenv("XLA_FLAGS", f"--xla_force_host_platform_device_count={devices}")
  times, fingerprints = [], []
  for name in ("first", "second"):
    result = subprocess.run(
        [sys.executable, "-m", "metamix_jax.main", *SHORT_RUN, f"--config.data.data_dir={data_dir}",
         f"--workdir={tmp_path / name}"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    times.append({path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "programs").iterdir()})
    fingerprints.append(json.loads((tmp_path / name / "report" / "summary.json").read_text())["fingerprints"])
  # Weights at three precisions, bit-meta and bit search; teacher, calibration and input ranges; three evaluations, with
  # no step sizes, with those of inputs and with all; and the moments of batches.
  assert len(times[0]) == 12
  assert times[1].keys() == times[0].keys() and all(times[1][name] > time for name, time in times[0].items())
  assert fingerprints[0] == fingerprints[1]


@pytest.mark.slow
@pytest.mark.parametrize("users", [None, "", "/a/cache"])
def test_the_runs_of_a_sweep_share_one(users, monkeypatch, tmp_path):
  if users is None:
    monkeypatch.delenv(VARIABLE, raising=False)
  else:
    monkeypatch.setenv(VARIABLE, users)
  monkeypatch.chdir(tmp_path)
  for name in ("seed=0", "seed=1"):
    output = tmp_path / name
    run = sweep.SweepRun({}, None, pathlib.Path("sweep") / name, (*CHILD, str(output)))
    assert sweep_execution.run_in_process(run, StopRequest()) == 0
    assert output.read_text() == (users or f"{tmp_path}/sweep/compilation_cache")


@pytest.mark.slow
@pytest.mark.parametrize("users", [None, "a/cache"])
def test_a_run_obeys_the_user(users, monkeypatch, tmp_path):
  users = users and str(tmp_path / users)
  if users is None:
    monkeypatch.delenv(VARIABLE, raising=False)
  else:
    monkeypatch.setenv(VARIABLE, users)
  result = subprocess.run(
      [sys.executable, "-c", COMMAND, "--config=configs/digits.py", f"--workdir={tmp_path}/run"],
      capture_output=True, text=True, cwd=ROOT, check=False)
  assert result.returncode == 0, result.stderr
  assert result.stdout == f"{users or f'{tmp_path}/run/compilation_cache'}\n"


def test_a_cache_that_cannot_be_written_is_one_sentence(monkeypatch, tmp_path):
  (tmp_path / "regular").touch()
  monkeypatch.setenv(VARIABLE, f"{tmp_path}/regular/cache")
  result = subprocess.run(
      [sys.executable, "-c", COMMAND, "--config=configs/digits.py", f"--workdir={tmp_path}/run"],
      capture_output=True, text=True, cwd=ROOT, check=False)
  assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
  assert f"{tmp_path}/regular/cache" in result.stderr and "cannot be written (Not a directory)" in result.stderr
