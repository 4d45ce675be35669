"""Several runs of a sweep at once: who runs where, what one that stops or fails does to the others."""

import os
import threading
import time

import pytest

from metamix_jax.errors import UserError
from metamix_jax.records.interruption import EXIT_INTERRUPTED, Interrupted, StopRequest
from metamix_jax.reporting import sweep_execution
from metamix_jax.reporting.sweep import SweepRun

# Where a system has no limits (macOS), every process has all cores.
CORES = "sorted(getattr(os, 'sched_getaffinity', lambda process: range(os.cpu_count()))(0))"
CHILD = f"import os, sys; print({CORES}); print('to stderr', file=sys.stderr)"


@pytest.fixture(autouse=True)
def without_results(monkeypatch):
  """Runs of no config: they are never finished, and there is nothing to write."""
  monkeypatch.setattr(sweep_execution, "write_results", lambda runs, workdir: None)
  monkeypatch.setattr(SweepRun, "summary", lambda run: None)


def create_runs(folder, number):
  return [SweepRun({}, None, folder / f"run_{index}", ("-c", CHILD)) for index in range(number)]


def execute(runs, launch, parallel, stop_request=None):
  lines = []
  sweep_execution.execute(runs, runs[0].folder.parent, launch, stop_request or StopRequest(), lines.append, parallel)
  return lines


@pytest.fixture
def four_cores(monkeypatch):
  monkeypatch.setattr(sweep_execution, "_place", lambda core: (0, core, core))
  monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 3, 5, 7})
  taken = []
  monkeypatch.setattr(os, "sched_setaffinity", lambda process, cores: taken.append((process, cores)))
  return taken


def test_cores_are_divided_among_neighbours(four_cores):
  assert sweep_execution.core_shares(1) == [None]
  assert sweep_execution.core_shares(2) == [{1, 3}, {5, 7}]
  assert sweep_execution.core_shares(3) == [{1}, {3}, {5, 7}]
  assert sweep_execution.core_shares(4) == [{1}, {3}, {5}, {7}]
  with pytest.raises(UserError, match="^--parallel is 5; allowed is 1 to 4, the number of cores.$"):
    sweep_execution.core_shares(5)


def test_threads_of_a_physical_core_stay_together(four_cores, monkeypatch):
  """As Linux numbers hyper-threads: 1 and 5 are the two threads of one core, 3 and 7 of another."""
  monkeypatch.setattr(sweep_execution, "_place", lambda core: (0, core % 4, core))
  assert sweep_execution.core_shares(2) == [{1, 5}, {3, 7}]


def test_a_system_without_limits_has_none(monkeypatch):
  monkeypatch.delattr(os, "sched_getaffinity", raising=False)
  assert sweep_execution.core_shares(1000) == [None] * 1000


def test_as_many_as_asked_run_at_once_each_on_its_share(four_cores, tmp_path):
  """Two wait for each other, twice: with fewer at once they would wait in vain, with more all four would meet."""
  barrier, together, most = threading.Barrier(2, timeout=60), [], []

  def launch(run, stop_request):
    together.append(run)
    barrier.wait()
    most.append(len(together))
    barrier.wait()
    together.remove(run)
    barrier.wait()
    return 0

  lines = execute(create_runs(tmp_path, 4), launch, 2)
  assert most == [2, 2, 2, 2]
  assert sorted(lines[:2]) == [f"sweep: run {number} of 4, run_{number - 1}" for number in (1, 2)]
  assert sorted((process, *sorted(cores)) for process, cores in four_cores) == [(0, 1, 3), (0, 5, 7)]


def test_the_time_left_is_shared(monkeypatch, tmp_path):
  """Two of 600 s are over at the same time, and two are left: 600 s."""
  clock = iter([0.0, 0.0, 600.0, 600.0] + [600.0] * 4)
  barrier, seconds = threading.Barrier(2, timeout=60), threading.Lock()
  monkeypatch.setattr(sweep_execution, "core_shares", lambda parallel: [None] * parallel)

  def monotonic():
    with seconds:
      return next(clock)

  monkeypatch.setattr(sweep_execution.time, "monotonic", monotonic)

  def launch(run, stop_request):
    barrier.wait()
    return 0

  lines = execute(create_runs(tmp_path, 4), launch, 2)
  assert lines[2].endswith(", about 0:10 h left") and "left" not in lines[0] + lines[1]
  assert sweep_execution._time_left([600.0], 3, 2) == ", about 0:20 h left"  # The third one runs alone.


@pytest.mark.parametrize("seconds, number, words", [
    ([3582.0], 1, "1:00"),  # 59.7 minutes.
    ([3564.0], 1, "0:59"),  # 59.4 minutes.
    ([7182.0], 1, "2:00"),  # 119.7 minutes.
    ([10.0, 30.0], 1, "0:00"),  # A third of a minute.
    ([3600.0, 3720.0], 3, "3:03"),  # Three times 61 minutes.
    ([36_000.0], 10, "100:00")])
def test_the_time_left_is_rounded_to_whole_minutes(seconds, number, words):
  assert sweep_execution._time_left(seconds, number, 1) == f", about {words} h left"


def test_one_that_stops_stops_the_others(tmp_path):
  begun = threading.Barrier(2, timeout=60)

  def launch(run, stop_request):
    begun.wait()
    while run.folder.name != "run_1" and not stop_request.requested:
      time.sleep(0.01)
    return EXIT_INTERRUPTED

  with pytest.raises(Interrupted, match="^stopped in run_0 and run_1$"):
    execute(create_runs(tmp_path, 3), launch, 2)


def test_one_that_failed_before_is_not_lost(tmp_path):
  failed = threading.Event()

  def launch(run, stop_request):
    if run.folder.name == "run_0":
      failed.set()
      return 2
    failed.wait()
    return EXIT_INTERRUPTED

  with pytest.raises(Interrupted, match=r"^stopped in run_1; failed before: run_0 \(status 2\)"):
    execute(create_runs(tmp_path, 2), launch, 2)


def test_one_that_fails_does_not(tmp_path):
  stopped = []

  def launch(run, stop_request):
    stopped.append(stop_request.requested)
    return {"run_0": 2, "run_1": 0, "run_2": 1}[run.folder.name]

  with pytest.raises(UserError, match=(
      r"^2 of 3 runs failed, run_0 \(status 2\), run_2 \(status 1\); their output.log says why; the same command")):
    execute(create_runs(tmp_path, 3), launch, 2)
  assert stopped == [False] * 3


def test_a_mistake_of_the_launch_ends_the_others(tmp_path):
  begun = threading.Barrier(2, timeout=60)

  def launch(run, stop_request):
    begun.wait()
    if run.folder.name == "run_0":
      raise OSError("no processes left")
    while not stop_request.requested:
      time.sleep(0.01)
    return EXIT_INTERRUPTED

  with pytest.raises(OSError, match="no processes left"):
    execute(create_runs(tmp_path, 3), launch, 2)


def test_a_process_gets_the_cores_of_its_thread_and_writes_to_its_file(tmp_path):
  cores = eval(CORES)
  shares = [sorted(share or cores) for share in sweep_execution.core_shares(len(cores))]
  runs = create_runs(tmp_path, len(cores))

  def launch(run, stop_request):
    return sweep_execution.run_in_process(run, stop_request, run.folder / sweep_execution.OUTPUT)

  execute(runs, launch, len(cores))
  lines = [line for run in runs for line in (run.folder / "output.log").read_text().splitlines()]
  assert sorted(lines) == sorted([str(share) for share in shares] + ["to stderr"] * len(cores))
  assert eval(CORES) == cores


def test_a_later_start_appends(tmp_path):
  run = SweepRun({}, None, tmp_path / "run", ("-c", "print('once')"))
  for _ in range(2):
    assert sweep_execution.run_in_process(run, StopRequest(), run.folder / "output.log") == 0
  assert (run.folder / "output.log").read_text() == "once\nonce\n"
