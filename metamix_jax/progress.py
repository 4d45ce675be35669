"""Progress of a long loop, as plain lines: step, loss, images/s, time left."""

from collections.abc import Callable, Mapping
import logging
import time

import jax
import numpy as np

logger = logging.getLogger("metamix_jax")


class Progress:
  """Logs a line every few seconds; reads a metric from the device only when it prints it.

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

  def part_of_step(self, name: str, compute: Callable):
    """Returns compute(); in the step after a printed line, when the devices are idle, waits for it and times it."""
    if self._step != self._logged_step or self._logged_at is None:
      return compute()
    start = time.monotonic()
    result = jax.block_until_ready(compute())
    self._part_seconds[name] = time.monotonic() - start
    return result

  def after_step(self, metrics: Mapping[str, jax.Array]) -> bool:
    """Counts a step, and prints a line where one is due and after the last step; returns whether it did."""
    self._step += 1
    self.compiled = metrics.keys() != self._names
    if self.compiled:  # Rates are counted from its end.
      jax.block_until_ready(metrics)
      self._names, self._logged_at, self._logged_step = metrics.keys(), time.monotonic(), self._step
      logger.info("%s: step %d/%d compiled and done", self.phase, self._step, self.num_steps)
      return True
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
    logger.info(
        "%s: step %d/%d  %s  %.0f images/s  %d:%02d left", self.phase, self._step, self.num_steps, values,
        self.batch_size / max(seconds_per_step, 1e-9), left // 60, left % 60)
    self._logged_at, self._logged_step = time.monotonic(), self._step
    return True
