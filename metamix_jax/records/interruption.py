"""How a run is asked to stop, and how it says that it did."""

import signal

# sysexits.h's EX_TEMPFAIL, "try again": what a cluster's launcher should do.
EXIT_INTERRUPTED = 75


class Interrupted(Exception):
  """The run was asked to stop; everything up to here is saved, and the same command continues."""


class StopRequest:
  """Whether the run has been asked to stop.

  Attributes:
    requested: true after a SIGTERM, once `listen_for_sigterm` was called.
  """

  def __init__(self):
    self.requested = False

  def listen_for_sigterm(self) -> None:
    """From here on SIGTERM lets the step end, saves and raises Interrupted. For the main thread."""
    def request_stop(number, frame):
      del number, frame
      self.requested = True

    signal.signal(signal.SIGTERM, request_stop)
