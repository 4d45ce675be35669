"""Checks on the numbers of a run; each alarm is one line of the log."""

from collections.abc import Mapping, Sequence

import numpy as np


class EpochWatch:
  """Raises an alarm if no selected bit moves over a whole search epoch.

  Records are too few for this check: bits can swing between steps and still be equal at every tenth step. The cost of
  the most probable bits is known for each step, and changes with any of them.
  """

  def __init__(self, steps_per_epoch: int, targets: Sequence[str]):
    """Starts a watch on K targets, given by their names."""
    self._steps_per_epoch, self._targets, self._costs = steps_per_epoch, targets, []

  def look_at(self, step: int, costs: np.ndarray) -> str | None:
    """Returns the alarm after a step, or None; call it for every step of the search, in order.

    Args:
      step: step of the phase, from 1.
      costs: cost of the most probable bits of each target in GBOPs, [K].
    """
    position = (step - 1) % self._steps_per_epoch
    if position == 0:
      self._costs = self._costs[-1:]
    self._costs.append(costs)
    # Fewer costs: the run was continued within the epoch, so its earlier costs are unknown.
    if position < self._steps_per_epoch - 1 or len(self._costs) < max(self._steps_per_epoch, 2):
      return None
    still = np.all(np.array(self._costs) == costs, axis=0)
    targets = [target for target, is_still in zip(self._targets, still, strict=True) if is_still]
    if not targets:
      return None
    epoch = (step - 1) // self._steps_per_epoch + 1
    return (f"no selected bit moved over epoch {epoch} at target {', '.join(targets)}: argmax alpha cost the same at"
            f" each of its {self._steps_per_epoch} steps")


class FloorWatch:
  """Raises an alarm if a step size stays at its floor."""

  def __init__(self, floor: float, num_records: int):
    """Starts a watch; `num_records` records in a row at `floor` raise an alarm."""
    self._floor, self._num_records, self._counts = np.float32(floor), num_records, {}

  def look_at(self, step_sizes: Mapping[str, np.ndarray]) -> str | None:
    """Returns the alarm after a record, once for each stay, or None; step sizes by name are scalars or [channels]."""
    low = [name for name, values in step_sizes.items() if np.min(values) <= self._floor]
    self._counts = {name: self._counts.get(name, 0) + 1 for name in low}
    stayed = [name for name, count in self._counts.items() if count == self._num_records]
    if not stayed:
      return None
    return f"at the floor, {self._floor:g}, in {self._num_records} records in a row: {', '.join(stayed)}"
