"""Several processes, on one host or on many: they find each other and wait for each other.

Every process runs the same program on its devices and its part of each batch. The first process writes the files of a
run, to a folder that all processes can see.
"""

from collections.abc import Iterator
import contextlib
import itertools
import os
import sys
import threading
from typing import Any

import jax
from jax._src import distributed  # The public module has no access to the coordinator's store of keys and values.
from jax.experimental import multihost_utils
import numpy as np

from metamix_jax.errors import UserError

_FAILURE_KEY = "metamix_jax/failure"
# Between two looks at that key; and from a failure until the processes end, so that those that fail by themselves can
# say why.
_LOOK_SECONDS, _GRACE_SECONDS = 1.0, 3.0
_questions = itertools.count(1)


def connect(coordinator_address: str | None, num_processes: int | None, process_id: int | None) -> None:
  """Joins this process to the others; call it before anything asks for a device.

  Args:
    coordinator_address: HOST:PORT of the first process. If all three are None, the cluster's environment says them
      (TPU pods, Slurm, Open MPI, Kubernetes).
    num_processes: number of processes.
    process_id: number of this process, 0 for the first.

  Raises:
    UserError: the three do not fit together, the environment does not say them, or the others cannot be reached.
  """
  given = {"coordinator_address": coordinator_address, "num_processes": num_processes, "process_id": process_id}
  missing = [name for name, value in given.items() if value is None]
  if 0 < len(missing) < len(given):
    raise UserError(
        f"--{missing[0]} is missing; --coordinator_address, --num_processes and --process_id come together, or none of"
        " them where the cluster's environment says them.")
  if process_id is not None and num_processes is not None and not 0 <= process_id < num_processes:
    raise UserError(f"--process_id is {process_id}; allowed are 0 to {num_processes - 1}, below --num_processes.")
  try:
    jax.distributed.initialize(coordinator_address, num_processes, process_id)
  except (RuntimeError, ValueError) as error:
    raise UserError(
        f"--distributed: the processes cannot be joined ({str(error).splitlines()[0].rstrip('.')}); give"
        " --coordinator_address, --num_processes and --process_id.") from error


def is_lead_process() -> bool:
  """Tells whether this process writes files and prints."""
  return jax.process_index() == 0


def total(count: int) -> int:
  """Returns the sum of a number over all processes."""
  if jax.process_count() == 1:
    return count
  return int(np.sum(multihost_utils.process_allgather(np.array(count))))


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
  """Turns a UserError of one process into one of every process, in a with statement that all of them enter.

  All processes meet at its end. Inside, no process may wait for another: one that has failed does not come.
  """
  error = None
  try:
    yield
  except UserError as caught:
    error = caught
  if total(int(error is not None)):
    raise error or UserError("another process of this run has failed, and says why.")


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
  """Ends all processes when one ends with an exception, in a with statement around everything that a run does.

  An exception that only one process sees, such as that of an image in its part of the data, leaves the others in an
  all-reduce to which it does not come. They end with one sentence and status 2.
  """
  if not jax.distributed.is_initialized():
    yield
    return
  store: Any = distributed.global_state.client
  done = threading.Event()
  threading.Thread(target=_end_at_failure, args=(store, done), name="failures", daemon=True).start()
  try:
    yield
  except Exception as error:
    words = str(error) if isinstance(error, UserError) else f"{type(error).__name__}, see its traceback"
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # Another process was first.
      store.key_value_set(_FAILURE_KEY, f"process {jax.process_index()}: {words}")
    raise
  finally:
    done.set()


def asked_to_stop() -> bool:
  """Tells whether the cluster has announced, to any process, that it takes the machines away; the same in all of them.

  All processes must call it equally often: JAX compares numbers of questions, which have to go up over a whole run.
  """
  return multihost_utils.reached_preemption_sync_point(next(_questions))


def _end_at_failure(store: Any, done: threading.Event) -> None:
  """Ends this process once another one has failed, unless it is `done` before."""
  while not done.wait(_LOOK_SECONDS):
    try:
      failure = store.key_value_try_get(_FAILURE_KEY)
    except jax.errors.JaxRuntimeError:  # There is no such key.
      continue
    if not done.wait(_GRACE_SECONDS):
      print(f"metamix_jax: {failure}", file=sys.stderr, flush=True)
      jax.distributed.shutdown()  # All processes meet there; otherwise the failed one would wait for this one.
      os._exit(2)  # The main thread may wait for an all-reduce for ever.
