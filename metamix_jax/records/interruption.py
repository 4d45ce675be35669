"""Stop requests to a run, and its answer.

SIGTERM, SIGINT (Ctrl-C) and SIGHUP (a terminal that closes) ask for it; the second of them ends the process at once.
So does the end of a parent, such as a sweep, that handed the process a pipe to listen to.
"""

from collections.abc import Callable, Sequence
import ctypes
import os
import select
import signal
import stat
import threading
import time

# EX_TEMPFAIL of sysexits.h: a cluster's launcher should try again.
EXIT_INTERRUPTED = 75
# Windows has no SIGHUP.
_HANG_UP = getattr(signal, "SIGHUP", None)
SIGNALS = tuple(number for number in (signal.SIGTERM, signal.SIGINT, _HANG_UP) if number is not None)
# The environment variable that names the reading end of a pipe. Its other end is closed when the parent wants the
# process to stop, and by the kernel when the parent is gone.
STOP_PIPE = "METAMIX_JAX_STOP_PIPE"
# One event comes as several signals: a terminal that closes, from the kernel and from the shell.
_SAME_EVENT_SECONDS = 1.0


class Interrupted(Exception):
  """Says that the run stopped on request: everything so far is saved, and the same command continues."""


class StopRequest:
  """Tells whether the run has been asked to stop."""

  def __init__(self):
    self._signalled = False
    self._pipe: int | None = None

  @property
  def requested(self) -> bool:
    """True after the first signal, or after the parent closed its pipe, once the two methods below were called."""
    return self._signalled or self._pipe is not None and bool(select.select([self._pipe], [], [], 0)[0])

  def listen_for_signals(self) -> None:
    """From here on the first of SIGNALS lets the step end, saves and raises Interrupted; a later one ends the process.

    The later one acts at once, also while a program is being compiled, and as if nobody listened: the exit status says
    which signal it was. Signals within a second of the first count as the same. SIGHUP stays ignored where it was
    ignored, which is what nohup is for. For the main thread.
    """
    _listen(SIGNALS, self._request)

  def listen_to_parent(self) -> None:
    """From here on the run stops when its parent closes the pipe of STOP_PIPE, or is gone; without one, nothing."""
    text = os.environ.pop(STOP_PIPE, "")  # Not for the children of this process, which do not have the pipe.
    try:
      descriptor = int(text)
      is_pipe = stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except (ValueError, OSError, OverflowError):
      return
    if is_pipe:
      self._pipe = descriptor

  def _request(self):
    self._signalled = True


def turn_into_sigterm() -> None:
  """From here on SIGINT and SIGHUP act as SIGTERM; for the main thread of one of several processes.

  JAX listens there for SIGTERM, and tells all processes of the first one. A later signal ends this process at once.
  """
  _listen([number for number in SIGNALS if number != signal.SIGTERM], lambda: os.kill(os.getpid(), signal.SIGTERM))


def _listen(numbers: Sequence[signal.Signals], at_first: Callable[[], None]) -> None:
  """Calls `at_first` at the first of some signals, and ends the process at a later one.

  A thread does both: Python's own handlers wait until the main thread is back from compiled code.
  """
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  numbers = [number for number in numbers
             if number != _HANG_UP or signal.getsignal(number) != signal.SIG_IGN]
  for number in numbers:
    signal.signal(number, lambda number, frame: None)
  signal.set_wakeup_fd(writer, warn_on_full_buffer=False)  # Python writes the number of each signal there.
  threading.Thread(target=_hear, args=(reader, numbers, at_first), name="signals", daemon=True).start()


def _hear(reader, numbers, at_first):
  first = None
  while True:
    number = os.read(reader, 1)[0]
    if number not in numbers:
      continue
    if first is None:
      first = time.monotonic()
      at_first()
    elif time.monotonic() - first > _SAME_EVENT_SECONDS:
      # signal.signal is for the main thread alone.
      ctypes.CDLL(None).signal(int(number), ctypes.c_void_p(signal.SIG_DFL))
      os.kill(os.getpid(), number)
