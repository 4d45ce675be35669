"""The clock of a phase: its seconds over all starts, and the seconds and steps that count for images per second."""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import time
from typing import Any, NamedTuple

import jax


class Mark(NamedTuple):
  """Marks a moment between two steps.

  Attributes:
    steps: number of timed steps before it.
    seconds: seconds that they took.
    waited: of these, the seconds in which no step ran because a batch was not ready.
  """

  steps: int
  seconds: float
  waited: float


class Clock:
  """Measures the time of one phase; step checkpoints save its seconds, so a continued phase goes on counting.

  A step is timed unless it compiled. Compilation, evaluation and saving count as seconds of the phase, but not as
  seconds of its steps.

  Attributes:
    parts: {name: seconds} of the measured parts of a step.
  """

  def __init__(self):
    self.parts: dict[str, float] = {}
    self._started, self._left_out, self._waited, self._timed_steps = time.monotonic(), 0.0, 0.0, 0

  @property
  def seconds(self) -> float:
    """Returns the seconds since the phase began, over all starts."""
    return time.monotonic() - self._started

  def continue_from(self, seconds: float) -> None:
    """Sets the seconds of the phase, from a checkpoint."""
    self._started = time.monotonic() - seconds

  def count_step(self) -> None:
    """Counts a timed step."""
    self._timed_steps += 1

  def leave_out(self, since: float) -> None:
    """Excludes the time since `since`, an earlier value of `seconds`, from the time of the steps."""
    self._left_out += self.seconds - since

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Excludes the time inside the with statement from the time of the steps."""
    start = self.seconds
    try:
      yield
    finally:
      self.leave_out(start)

  def mark(self) -> Mark:
    """Returns this moment."""
    return Mark(self._timed_steps, self.seconds - self._left_out, self._waited)

  def seconds_per_step(self, since: Mark) -> float | None:
    """Returns the mean seconds of the timed steps after a mark; None if no step was timed."""
    now = self.mark()
    return (now.seconds - since.seconds) / (now.steps - since.steps) if now.steps > since.steps else None

  def timed_batches(self, batches: Iterable[Any], devices_idle: Callable[[], bool]) -> Iterator[Any]:
    """Yields batches, and counts the time for one as waiting if no step is in flight when it is there.

    The last step may have ended in between, so what is counted is the most that the devices can have waited, apart
    from the transfer of the batch, which goes on after it is there.

    Args:
      batches: of a phase, in order.
      devices_idle: tells whether all steps that were dispatched are done.
    """
    iterator, nothing = iter(batches), object()
    while True:
      start = time.monotonic()
      batch = next(iterator, nothing)
      if batch is nothing:
        return
      if devices_idle():
        self._waited += time.monotonic() - start
      yield batch

  def share_waited(self, since: Mark) -> float:
    """Returns the share of the steps' time since a mark that was spent waiting for batches, 0 to 1."""
    now = self.mark()
    return (now.waited - since.waited) / max(now.seconds - since.seconds, 1e-9)

  def measure(self, name: str, compute: Callable[..., Any], *arguments: Any) -> Any:
    """Returns compute(*arguments) once it is on the devices, and keeps its seconds in `parts[name]`."""
    start = time.monotonic()
    result = jax.block_until_ready(compute(*arguments))
    self.parts[name] = time.monotonic() - start
    return result
