"""How many processor cores there are for decoding."""

import os


def available_cores() -> int:
  """Counts the cores that this process may run on.

  Linux knows the cores that a container or taskset allows. macOS and Windows have no such limit: there it is the number
  of the machine's cores.
  """
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
