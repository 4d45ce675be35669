"""Sweeps: which runs they are, and that interruptions change nothing of their results."""

import csv
import json
import os
import signal
import subprocess
import sys

import pytest

from metamix_jax.config_file import flatten
from metamix_jax.records import interruption
from metamix_jax.records.interruption import EXIT_INTERRUPTED
from metamix_jax.records.results import TARGET_FIGURES
from metamix_jax.reporting import sweep, sweep_execution
from tests.helpers.files import ROOT
from tests.helpers.interrupted_runs import StopAfter
from tests.helpers.tiny_sweep import get_config

RUNS = ["arch.target_gbops=0.0008,seed=0", "arch.target_gbops=0.0008,seed=1", "arch.target_gbops=0.001,seed=0",
        "arch.target_gbops=0.001,seed=1"]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
  monkeypatch.chdir(ROOT)  # sweep.base is a relative path.


@pytest.fixture
def tiny(data_dir):
  config = get_config()
  config.fixed.data.data_dir = str(data_dir)
  return config


def invent(run, full_precision_top1=97.5):
  """A finished run of invented numbers: one row for each of its targets; its exit status."""
  targets = run.config.arch.target_gbops
  results = [
      {name: None for name in TARGET_FIGURES} | {
          "target_gbops": target, "gbops": 0.99 * target, "meta_state_top1": 90 + run.config.seed, "bits": {}}
      for target in (targets if isinstance(targets, tuple) else (targets,))]
  (run.folder / "report").mkdir(parents=True, exist_ok=True)
  (run.folder / "report" / "summary.json").write_text(json.dumps({
      "full_precision_top1": full_precision_top1, "targets": results,
      "config": flatten(run.config)}))
  return 0


def execute(runs, workdir, launch, stop_request=None):
  lines = []
  sweep_execution.execute(
      runs, workdir, lambda run, stop_request: launch(run), stop_request or interruption.StopRequest(), lines.append)
  return lines


def test_a_sweep_that_was_interrupted_ends_with_the_same_results(tiny, tmp_path):
  """Runs of three steps, stopped within runs and between them; test_sigterm_... below does it with real ones."""
  def run_steps(run, stop_request):
    """Saves each step and continues behind the last; the steps that were made end up in the results."""
    run.folder.mkdir(parents=True, exist_ok=True)
    path = run.folder / "steps"
    while not path.exists() or len(path.read_text()) < 3:
      with path.open("a") as file:
        file.write("x")
      if stop_request.requested:
        return EXIT_INTERRUPTED
    invent(run, full_precision_top1=90 + len(path.read_text()))
    return 0

  whole, workdir = tmp_path / "whole", tmp_path / "stopped"
  execute(sweep.plan(tiny, whole), whole, lambda run: run_steps(run, interruption.StopRequest()))

  runs = sweep.plan(tiny, workdir)
  stops = iter([StopAfter(9), StopAfter(1), StopAfter(9), StopAfter(9), StopAfter(2)])
  with pytest.raises(interruption.Interrupted, match=f"^stopped in {RUNS[1]}$"):
    execute(runs, workdir, lambda run: run_steps(run, next(stops)))
  assert len((workdir / "results.csv").read_text().splitlines()) == 2
  with pytest.raises(interruption.Interrupted, match=f"^stopped before {RUNS[2]}$"):
    execute(runs, workdir, lambda run: run_steps(run, next(stops)), StopAfter(1))
  with pytest.raises(interruption.Interrupted, match=f"^stopped in {RUNS[3]}$"):
    execute(runs, workdir, lambda run: run_steps(run, next(stops)))
  lines = execute(runs, workdir, lambda run: run_steps(run, interruption.StopRequest()))
  assert lines == [f"sweep: run 4 of 4, {RUNS[3]}"]

  assert (workdir / "results.csv").read_text() == (whole / "results.csv").read_text()
  rows = list(csv.DictReader((whole / "results.csv").read_text().splitlines()))
  assert [(row["arch.target_gbops"], row["seed"], row["full_precision_top1"]) for row in rows] == [
      ("0.0008", "0", "93"), ("0.0008", "1", "93"), ("0.001", "0", "93"), ("0.001", "1", "93")]
  assert list(rows[0]) == ["arch.target_gbops", "seed", "full_precision_top1", *TARGET_FIGURES]
  assert (whole / "accuracy_against_cost.png").read_bytes().startswith(b"\x89PNG")


def test_each_run_has_a_folder_and_a_command_that_say_its_values(tiny, tmp_path):
  with tiny.unlocked(), tiny.ignore_type():
    tiny.base = ("configs/digits.py", "configs/imagenet.py:resnet18-smoke")
    del tiny.fixed["network"]
    del tiny.grid["arch"]
    tiny.grid.quantization = {"candidate_bits": ((3, 4), (3, 4, 8))}
  runs = sweep.plan(tiny, tmp_path)
  assert len(runs) == 2 * 2 * 2
  assert runs[5].folder.name == "base=configs_imagenet.py_resnet18-smoke,quantization.candidate_bits=3_4,seed=1"
  assert runs[5].config.quantization.candidate_bits == (3, 4) and runs[5].config.seed == 1
  assert runs[5].arguments[:2] == ("-m", "metamix_jax.main")
  assert {"--config=configs/imagenet.py:resnet18-smoke", f"--workdir={runs[5].folder}", "--config.seed=1",
          "--config.quantization.candidate_bits=(3, 4)", "--config.stage_b.epochs=1"} <= set(runs[5].arguments)


def test_several_targets_are_several_rows(tiny, tmp_path):
  with tiny.unlocked():
    tiny.grid.arch.target_gbops = ((0.0008, 0.001),)
  execute(sweep.plan(tiny, tmp_path), tmp_path, invent)
  rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
  assert [(row["seed"], row["target_gbops"], row["meta_state_top1"], row["final_top1"]) for row in rows] == [
      ("0", "0.0008", "90", ""), ("0", "0.001", "90", ""), ("1", "0.0008", "91", ""), ("1", "0.001", "91", "")]
  numbers = [{name: float(row[name]) if row[name] else None for name in TARGET_FIGURES} for row in rows]
  axes = sweep.accuracy_against_cost(numbers, ["arch.target_gbops", "seed"]).axes[0]
  assert axes.lines[0].get_xydata().tolist() == [[0.99 * 0.0008, 90.5], [0.99 * 0.001, 90.5]]  # Means over the seeds.
  assert len(axes.lines[1].get_xdata()) == 4


def test_a_run_that_fails_does_not_keep_the_others(tiny, tmp_path):
  runs = sweep.plan(tiny, tmp_path)
  with pytest.raises(ValueError, match=rf"1 of 4 runs failed, {RUNS[1]} \(status 2\); the same command"):
    execute(runs, tmp_path, lambda run: 2 if run is runs[1] else invent(run))
  assert len((tmp_path / "results.csv").read_text().splitlines()) == 1 + 3
  assert [run.summary() is None for run in runs] == [False, True, False, False]


def test_results_of_another_config_are_not_taken(tiny, tmp_path):
  execute(sweep.plan(tiny, tmp_path), tmp_path, invent)
  tiny.fixed.stage_b.epochs = 2
  assert all(run.summary() is None for run in sweep.plan(tiny, tmp_path))


def test_results_with_the_keys_of_an_earlier_version_are_not_taken(tiny, tmp_path):
  runs = sweep.plan(tiny, tmp_path)
  invent(runs[0])
  path = runs[0].folder / "report" / "summary.json"
  summary = json.loads(path.read_text())
  assert runs[0].summary() == summary
  path.write_text(json.dumps({"pareto": {"budgets": summary.pop("targets")}} | summary))
  assert "targets" not in json.loads(path.read_text())
  assert runs[0].summary() is None


@pytest.mark.parametrize("part, value, sentence", [
    ("base", "nowhere.py", "the config file 'nowhere.py' cannot be read: No such file"),
    ("base", "configs/imagenet.py:resnet19", "imagenet.py:resnet19 is not an experiment; allowed are mobilenet_v2"),
    ("grid.seed", 3, "sweep.grid.seed is 3; it must be a tuple of values"),
    ("grid.seed", (), r"sweep.grid.seed is \(\); it must be a tuple of values"),
    ("grid.seed", (0, 0), "sweep.grid gives two runs the folder"),
    ("grid.seed", (0, -1), "config.seed is -1; it must be an integer from 0 to 4294967295"),
    ("grid.sed", (0, 1), "the sweep sets a field that configs/digits.py does not have.*sed"),
    ("fixed.stage_b.epochs", "many", "does not have, or has of another type"),
    ("grids", 1, "sweep.grids is no part of a sweep; it has base, grid and perhaps fixed"),
])
def test_a_wrong_sweep_is_one_sentence(tiny, tmp_path, part, value, sentence):
  *sections, name = part.split(".")
  with tiny.unlocked(), tiny.ignore_type():
    section = tiny
    for one in sections:
      section = section[one]
    with section.ignore_type():
      section[name] = value
  with pytest.raises(ValueError, match=sentence) as caught:
    sweep.plan(tiny, tmp_path)
  assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def start(workdir, data_dir, *flags, cores=None):
  """The command in a process of its own, one device, perhaps a limited number of cores; its output is in .stdout."""
  allowed = ",".join(map(str, sorted(os.sched_getaffinity(0))[:cores]))
  limited = [] if cores is None else ["taskset", "--cpu-list", allowed]
  return subprocess.Popen(
      [*limited, sys.executable, "scripts/sweep.py", "--config=tests/helpers/tiny_sweep.py", f"--workdir={workdir}",
       f"--config.fixed.data.data_dir={data_dir}", *flags],
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
      env=os.environ | {"PYTHONUNBUFFERED": "1", "XLA_FLAGS": ""})


def test_the_command_prints_the_single_commands(data_dir, tmp_path):
  output, _ = start(tmp_path / "sweep", data_dir, "--print_commands").communicate()
  lines = output.splitlines()
  assert len(lines) == 4 and not (tmp_path / "sweep").exists()
  assert lines[0].startswith(
      f"python -m metamix_jax.main --config=configs/digits.py --workdir={tmp_path}/sweep/{RUNS[0]} ")
  assert "'--config.network.options.blocks=((1, 8, 1, 1), (2, 8, 1, 2))'" in lines[3] and "--config.seed=1" in lines[3]


@pytest.mark.slow
def test_two_at_once_write_the_results_of_one_after_another(data_dir, tmp_path):
  """Both with one core each: the number of cores may change the order of sums."""
  files = {}
  for name, parallel in (("in turn", 1), ("at once", 2)):
    workdir = tmp_path / name
    process = start(workdir, data_dir, f"--parallel={parallel}", cores=1 if parallel == 1 else 2)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert ("pretraining: step" in output) == (parallel == 1)
    logs = sorted(workdir.glob("*/output.log"))
    assert [log.parent.name for log in logs] == ([] if parallel == 1 else RUNS)
    assert all("pretraining: step" in log.read_text() for log in logs)
    files[name] = (workdir / "results.csv").read_text()
  assert files["in turn"] == files["at once"]


@pytest.mark.slow
def test_sigterm_stops_the_sweep_and_its_run(data_dir, tmp_path):
  whole = start(tmp_path / "whole", data_dir)
  output, _ = whole.communicate()
  assert whole.returncode == 0, output

  process = start(tmp_path / "stopped", data_dir)
  for line in process.stdout:
    if line.startswith("bit_selection: step"):
      process.send_signal(signal.SIGTERM)
      break
  output, _ = process.communicate()
  assert process.returncode == EXIT_INTERRUPTED, output
  assert f"sweep: stopped in {RUNS[0]}; the same command continues." in output and "Traceback" not in output
  process = start(tmp_path / "stopped", data_dir)
  output, _ = process.communicate()
  assert process.returncode == 0 and "bit_selection: continued after step" in output, output
  assert (tmp_path / "stopped" / "results.csv").read_text() == (tmp_path / "whole" / "results.csv").read_text()
