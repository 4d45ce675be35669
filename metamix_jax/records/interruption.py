"""Stop requests to a run, and its answer."""

import signal

# EX_TEMPFAIL of sysexits.h: a cluster's launcher should try again.
EXIT_INTERRUPTED = 75


class Interrupted(Exception):
  """Says that the run stopped on request: everything so far is saved, and the same command continues."""


class StopRequest:
  """Tells whether the run has been asked to stop.

  Attributes:
    requested: true after a SIGTERM, if `listen_for_sigterm` was called before.
  """

  def __init__(self):
    self.requested = False

  def listen_for_sigterm(self) -> None:
    """Sets `requested` at a SIGTERM instead of ending the process; call it in the main thread."""
    def request_stop(number, frame):
      del number, frame
      self.requested = True

    signal.signal(signal.SIGTERM, request_stop)
