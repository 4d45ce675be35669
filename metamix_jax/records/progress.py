"""Progress of long work: a bar with the time left on a terminal, plain lines elsewhere."""

from collections.abc import Iterable, Mapping
import logging
import sys

import jax
import numpy as np
from tqdm import tqdm

from metamix_jax.records import multihost
from metamix_jax.records.clock import Clock

logger = logging.getLogger("metamix_jax")

# Weight of the newest tenth of a second in a bar's time left. tqdm's 0.3 forgets within a second, but steps come in
# bursts: the host runs ahead of the devices until it waits for them.
_SMOOTHING = 0.02


def show_bar(iterable: Iterable | None, name: str, total: int, unit: str = "batch", first: int = 0) -> tqdm:
  """Shows a bar with the time left if stdout is a terminal; elsewhere it only passes the iterable on.

  Args:
    iterable: each item moves the bar by one, and the last item removes it; None: `update` moves it, and `close` leaves
      it in its place.
    name: text before the bar.
    total: number of items.
    unit: name of an item.
    first: number of finished items.
  """
  disable = None if multihost.is_lead_process() else True  # None: disabled if stdout is not a terminal.
  return tqdm(
      iterable, desc=name, total=total, unit=unit, initial=first, leave=iterable is None, file=sys.stdout,
      dynamic_ncols=True, smoothing=_SMOOTHING, disable=disable)


class LineHandler(logging.StreamHandler):
  """Writes log lines to stdout, above the bars."""

  def __init__(self):
    super().__init__(sys.stdout)

  def emit(self, record: logging.LogRecord) -> None:
    """Removes the bars, writes the line, and draws the bars again below it."""
    with tqdm.external_write_mode(file=self.stream):
      super().emit(record)


def log_to_terminal() -> None:
  """Writes the lines of our logger to stdout, without the notes of libraries; only warnings in later processes."""
  logger.setLevel(logging.INFO if multihost.is_lead_process() else logging.WARNING)
  logger.addHandler(LineHandler())
  logger.propagate = False


class Progress:
  """Reports the progress of a loop every few seconds, and reads metrics from the devices only then.

  On a terminal it shows a bar with the loss; elsewhere it writes a log line with every value.

  Attributes:
    phase: name at the start of each line.
    num_steps: number of steps of the whole phase.
    batch_size: number of images of one step, over all devices.
    every_seconds: least seconds between two lines.
  """

  def __init__(
      self, phase: str, num_steps: int, batch_size: int, every_seconds: float, clock: Clock, first_step: int = 0):
    self.phase, self.num_steps, self.batch_size, self.every_seconds = phase, num_steps, batch_size, every_seconds
    self._clock, self._step, self._printed, self._printed_at = clock, first_step, clock.mark(), clock.seconds
    self._bar = show_bar(None, phase, num_steps, "step", first_step)

  def close(self) -> None:
    """Leaves the bar on the terminal; later output goes below it."""
    self._bar.close()

  def after_step(self, metrics: Mapping[str, jax.Array], compiled: bool) -> bool:
    """Counts a step, and prints a line if one is due or the step is the last one.

    Args:
      metrics: metrics of the step, scalars or vectors by name.
      compiled: true if the step compiled its programs; the step is then complete.

    Returns:
      True if no step is in flight: a line was printed, or the step compiled.
    """
    self._step += 1
    if compiled:
      self._printed, self._printed_at = self._clock.mark(), self._clock.seconds
      self._bar.unpause()  # The time left does not count the compilation.
      self._bar.update()
      if self._bar.disable:
        logger.info("%s: step %d/%d compiled and done", self.phase, self._step, self.num_steps)
      return True
    self._bar.update()
    if self._clock.seconds - self._printed_at < self.every_seconds and self._step < self.num_steps:
      return False
    jax.block_until_ready(metrics)
    seconds_per_step = self._clock.seconds_per_step(self._printed)
    self._print(metrics, seconds_per_step)
    self._printed, self._printed_at = self._clock.mark(), self._clock.seconds
    return True

  def _print(self, metrics, seconds_per_step):
    values = "  ".join(
        f"{name} {' '.join(f'{number:.4f}' for number in np.ravel(value))}" for name, value in sorted(metrics.items()))
    for name, seconds in self._clock.parts.items():
      values += f"  {name} {1000 * seconds:.0f} of {1000 * seconds_per_step:.0f} ms"
    left = (self.num_steps - self._step) * seconds_per_step
    rate = f"{self.batch_size / max(seconds_per_step, 1e-9):.0f} images/s"
    data = f"data {100 * self._clock.share_waited(self._printed):.0f} %"
    if self._bar.disable:
      logger.info("%s: step %d/%d  %s  %s  %s  %d:%02d left", self.phase, self._step, self.num_steps, values, rate,
                  data, left // 60, left % 60)
    # All values would leave no room for the bar.
    self._bar.set_postfix_str(f"loss {float(metrics['loss']):.4f}  {rate}")
