"""Progress of long work: a bar with the time left on a terminal, plain lines elsewhere."""

from collections.abc import Callable, Iterable, Mapping
import logging
import sys
import time

import jax
import numpy as np
from tqdm import tqdm

from metamix_jax.records import multihost

logger = logging.getLogger("metamix_jax")

# Weight of the newest tenth of a second in a bar's time left. tqdm's 0.3 forgets within a second, and steps come in
# bursts: the host runs ahead of the devices until it waits for them.
_SMOOTHING = 0.02


def show_bar(iterable: Iterable | None, name: str, total: int, unit: str = "batch", first: int = 0) -> tqdm:
  """A bar with the time left where stdout is a terminal; elsewhere nothing but the iterable.

  Args:
    iterable: each item moves the bar by one, and the last one takes it away; None: `update` moves it, and `close`
      leaves it where it is.
    name: before the bar.
    total: number of items.
    unit: what an item is called.
    first: items that are done already.
  """
  disable = None if multihost.is_first() else True  # None: where stdout is no terminal.
  return tqdm(
      iterable, desc=name, total=total, unit=unit, initial=first, leave=iterable is None, file=sys.stdout,
      dynamic_ncols=True, smoothing=_SMOOTHING, disable=disable)


class LineHandler(logging.StreamHandler):
  """Writes log lines to stdout, above the bars that are there."""

  def __init__(self):
    super().__init__(sys.stdout)

  def emit(self, record: logging.LogRecord) -> None:
    """Takes the bars away, writes the line, and draws them again below it."""
    with tqdm.external_write_mode(file=self.stream):
      super().emit(record)


class Progress:
  """Says every few seconds where a loop is; reads a metric from the device only then.

  On a terminal that is a bar with the loss behind it, elsewhere a line of the log with every value.

  Attributes:
    phase: name at the start of each line.
    num_steps: steps of the whole phase.
    batch_size: images of one step, all devices.
    every_seconds: least time between two lines.
    compiled: whether the last step was the first of its kind.
  """

  def __init__(self, phase: str, num_steps: int, batch_size: int, every_seconds: float, first_step: int = 0):
    self.phase, self.num_steps, self.batch_size, self.every_seconds = phase, num_steps, batch_size, every_seconds
    self._step, self._logged_step, self._logged_at, self._names = first_step, first_step, None, None
    self._part_seconds, self.compiled = {}, False
    self._bar = show_bar(None, phase, num_steps, "step", first_step)

  def close(self) -> None:
    """Leaves the bar as it is; what is written next goes below it."""
    self._bar.close()

  def part_of_step(self, name: str, compute: Callable):
    """Returns compute(); in the step after a printed line, when the devices are idle, waits for it and times it."""
    if self._step != self._logged_step or self._logged_at is None:
      return compute()
    start = time.monotonic()
    result = jax.block_until_ready(compute())
    self._part_seconds[name] = time.monotonic() - start
    return result

  def after_step(self, metrics: Mapping[str, jax.Array]) -> bool:
    """Counts a step, and says where the loop is where that is due and after the last step; returns whether it did."""
    self._step += 1
    self.compiled = metrics.keys() != self._names
    if self.compiled:  # Rates are counted from its end.
      jax.block_until_ready(metrics)
      self._names, self._logged_at, self._logged_step = metrics.keys(), time.monotonic(), self._step
      self._bar.unpause()  # Nor does the time left count what the compilation took.
      self._bar.update()
      if self._bar.disable:
        logger.info("%s: step %d/%d compiled and done", self.phase, self._step, self.num_steps)
      return True
    self._bar.update()
    elapsed = time.monotonic() - self._logged_at
    if elapsed < self.every_seconds and self._step < self.num_steps:
      return False
    jax.block_until_ready(metrics)
    elapsed = time.monotonic() - self._logged_at
    seconds_per_step = elapsed / max(self._step - self._logged_step, 1)
    values = "  ".join(
        f"{name} {' '.join(f'{number:.4f}' for number in np.ravel(value))}" for name, value in sorted(metrics.items()))
    for name, seconds in self._part_seconds.items():
      values += f"  {name} {1000 * seconds:.0f} of {1000 * seconds_per_step:.0f} ms"
    left = (self.num_steps - self._step) * seconds_per_step
    rate = f"{self.batch_size / max(seconds_per_step, 1e-9):.0f} images/s"
    if self._bar.disable:
      logger.info("%s: step %d/%d  %s  %s  %d:%02d left", self.phase, self._step, self.num_steps, values, rate,
                  left // 60, left % 60)
    # All values would leave no room for the bar.
    self._bar.set_postfix_str(f"loss {float(metrics['loss']):.4f}  {rate}")
    self._logged_at, self._logged_step = time.monotonic(), self._step
    return True
