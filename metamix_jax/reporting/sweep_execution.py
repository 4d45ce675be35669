"""Executes the runs of a sweep, one after another or several at once, each in a process of its own."""

from collections.abc import Callable, Sequence
import concurrent.futures
import contextlib
import math
import os
import pathlib
import statistics
import subprocess
import sys
import threading
import time

from metamix_jax.errors import UserError
from metamix_jax.records import folder_lock
from metamix_jax.records.interruption import EXIT_INTERRUPTED, STOP_PIPE, Interrupted, StopRequest
from metamix_jax.reporting.sweep import SweepRun, write_results

# Of a run's folder: what the run prints, where several run at once.
OUTPUT = "output.log"
_POLL_SECONDS = 0.5
# For a run whose sweep was killed to save and leave its folder.
_PATIENCE_SECONDS = 60.0


class SweepStop:
  """Asks the runs of a sweep to stop when the sweep is asked to, or when one of them was stopped."""

  def __init__(self, sweep: StopRequest):
    self._sweep, self._one_stopped = sweep, threading.Event()

  @property
  def requested(self) -> bool:
    """True after the first of the two."""
    return self._one_stopped.is_set() or self._sweep.requested

  def stop(self) -> None:
    """Asks all runs to stop."""
    self._one_stopped.set()


Launch = Callable[[SweepRun, StopRequest | SweepStop], int]


def execute(
    runs: Sequence[SweepRun], workdir: pathlib.Path, launch: Launch, stop_request: StopRequest,
    report_progress: Callable[[str], None], parallel: int = 1
) -> None:
  """Executes the unfinished runs, and writes the results after each.

  A run that fails does not stop the others. With several at once, each has its share of the cores.

  Args:
    runs: from `sweep.plan`.
    workdir: DIR of the sweep.
    launch: executes one run in a thread, reads whether it has to stop, and returns its exit status: 0, or
      EXIT_INTERRUPTED if the same call can continue it.
    stop_request: of the sweep; read before and after each run.
    report_progress: gets a line before each run.
    parallel: number of runs at once.

  Raises:
    Interrupted: the sweep or a run was asked to stop; the other runs were then stopped too.
    UserError: runs failed; the sentence names them. Or there are fewer cores than runs at once.
  """
  shares = core_shares(parallel)
  left = [run for run in runs if run.summary() is None]
  write_results(runs, workdir)
  stop, seconds, statuses = SweepStop(stop_request), [], {}

  def execute_one(number, run):
    """Returns the exit status of a run, or None if it was not begun."""
    if stop.requested:
      return None
    report_progress(
        f"sweep: run {len(runs) - len(left) + number + 1} of {len(runs)}, {run.folder.name}"
        + _time_left(seconds, len(left) - number, parallel))
    start = time.monotonic()
    status = launch(run, stop)
    if status == 0:
      seconds.append(time.monotonic() - start)
    elif stop_request.requested or status == EXIT_INTERRUPTED:
      stop.stop()
    return status

  with contextlib.ExitStack() as stack:
    pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(
        parallel, initializer=lambda: _run_on(shares.pop())))
    stack.callback(stop.stop)  # An exception on the way out of here ends the runs, not only the waiting for them.
    begun = {pool.submit(execute_one, number, run): run.folder.name for number, run in enumerate(left)}
    for future in concurrent.futures.as_completed(begun):
      statuses[begun[future]] = future.result()
      if future.result() == 0:
        write_results(runs, workdir)
  _raise_unless_finished({run.folder.name: statuses[run.folder.name] for run in left}, len(runs), parallel)


def core_shares(parallel: int) -> list[set[int] | None]:
  """Divides the cores that this process may use into equal shares; the threads of a physical core stay together.

  Args:
    parallel: number of shares.

  Returns:
    The numbers of the cores of each share; None where the system has no such limit (macOS) or there is one share.

  Raises:
    UserError: there are fewer cores than shares.
  """
  if parallel == 1 or not hasattr(os, "sched_getaffinity"):
    return [None] * parallel
  cores = sorted(os.sched_getaffinity(0), key=_place)
  if parallel > len(cores):
    raise UserError(f"--parallel is {parallel}; allowed is 1 to {len(cores)}, the number of cores.")
  edges = [len(cores) * part // parallel for part in range(parallel + 1)]
  return [set(cores[start:end]) for start, end in zip(edges, edges[1:], strict=False)]


def run_in_process(run: SweepRun, stop_request: StopRequest | SweepStop, output: pathlib.Path | None = None) -> int:
  """Runs in a process of its own, which stops when the sweep is asked to stop or killed, and returns its exit status.

  The process waits for the end of a pipe (interruption.STOP_PIPE). A signal would be its second one where Ctrl-C has
  reached it too, and nobody sends one where the sweep is killed. Where an earlier sweep was, its run gets a minute to
  leave the folder.

  Args:
    run: from `sweep.plan`.
    stop_request: of the sweep.
    output: file to which what the run prints is appended; None: it is printed.

  Raises:
    OSError: the process cannot be started, or the file cannot be written.
  """
  patience_ends = time.monotonic() + _PATIENCE_SECONDS
  while folder_lock.is_held(run.folder) and time.monotonic() < patience_ends and not stop_request.requested:
    time.sleep(_POLL_SECONDS)
  reader, writer = os.pipe()
  with contextlib.ExitStack() as stack:
    stack.enter_context(open(reader, "rb"))
    pipe = stack.enter_context(open(writer, "wb"))
    stdout = stderr = None
    if output is not None:
      output.parent.mkdir(parents=True, exist_ok=True)
      stdout, stderr = stack.enter_context(output.open("ab")), subprocess.STDOUT
    process = subprocess.Popen(
        [sys.executable, *run.arguments], pass_fds=(reader,), env=os.environ | _shared_cache(run) | {
            STOP_PIPE: str(reader)}, stdout=stdout, stderr=stderr)
    while True:
      try:
        return process.wait(_POLL_SECONDS)
      except subprocess.TimeoutExpired:
        if stop_request.requested:
          pipe.close()


def _raise_unless_finished(statuses, number_of_runs, parallel):
  """Raises Interrupted or UserError for {name: exit status, None: not begun} that are not all 0."""
  not_begun = [name for name, status in statuses.items() if status is None]
  stopped = [name for name, status in statuses.items() if status == EXIT_INTERRUPTED]
  if not_begun or stopped:  # A process that a second signal has ended has a negative status.
    stopped = [name for name, status in statuses.items() if status is not None and (
        status == EXIT_INTERRUPTED or status < 0)]
  failed = {name: status for name, status in statuses.items() if status and name not in stopped}
  words = ", ".join(f"{name} (status {status})" for name, status in failed.items())
  where = f"; their {OUTPUT} says why" if parallel > 1 else ""
  if not_begun or stopped:
    raise Interrupted(
        (f"stopped in {' and '.join(stopped)}" if stopped else f"stopped before {not_begun[0]}")
        + (f"; failed before: {words}{where}" if failed else ""))
  if failed:
    raise UserError(
        f"{len(failed)} of {number_of_runs} runs failed, {words}{where}; the same command tries them again.")


def _place(core):
  """Returns (package, physical core, core) as Linux numbers them; (0, core, core) where it does not say."""
  topology = pathlib.Path(f"/sys/devices/system/cpu/cpu{core}/topology")
  try:
    return *(int((topology / name).read_text(encoding="utf-8")) for name in ("physical_package_id", "core_id")), core
  except (OSError, ValueError):
    return 0, core, core


def _run_on(cores):
  """Limits this thread, and the processes that it starts, to some cores."""
  if cores is not None:
    os.sched_setaffinity(0, cores)


def _time_left(seconds, number, parallel):
  if not seconds:
    return ""
  # Rounded first: 59.7 minutes are an hour.
  hours, minutes = divmod(round(statistics.mean(seconds) * math.ceil(number / parallel) / 60), 60)
  return f", about {hours}:{minutes:02} h left"


def _shared_cache(run):
  """JAX's variable for one compilation cache in the sweep's folder, or {} where the user set the variable."""
  name = "JAX_COMPILATION_CACHE_DIR"
  return {} if os.environ.get(name) else {name: str((run.folder.parent / "compilation_cache").absolute())}
