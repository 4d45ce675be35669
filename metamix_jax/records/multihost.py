"""Several processes, on one host or on many: how they find each other, and what only the first of them does.

Every process runs the same program on its own devices and its own part of each batch. Files of a run are written by
the first one, to a folder that all of them see.
"""

import jax
from jax.experimental import multihost_utils
import numpy as np

from metamix_jax.errors import UserError


def connect(coordinator_address: str | None, num_processes: int | None, process_id: int | None) -> None:
  """Joins this process to the others; before anything else asks for a device.

  Args:
    coordinator_address: HOST:PORT of the first process. None, with the other two: the cluster's environment says it
      (TPU pods, Slurm, Open MPI, Kubernetes).
    num_processes: how many there are.
    process_id: which one this is, 0 for the first.

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
  """True in the process that writes files and prints."""
  return jax.process_index() == 0


def wait_for_all(place: str) -> None:
  """Returns when every process has come to this place, named alike in all of them."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(place)


def total(count: int) -> int:
  """The sum of a number over all processes."""
  if jax.process_count() == 1:
    return count
  return int(np.sum(multihost_utils.process_allgather(np.array(count))))
