"""What in the records of a run should worry its owner; each alarm is one line of the log."""

from collections.abc import Mapping, Sequence

import numpy as np


def selected_bits(line: Mapping[str, float]) -> dict[str, dict[str, str]]:
  """{target: {layer: most probable bits}} of a line of metrics.jsonl; {} where nothing is searched yet."""
  best = {}
  for name, probability in line.items():
    if name.startswith("search/") and "/probability/" in name:
      # search/TARGET/probability/LAYER/BITS; only LAYER has further slashes.
      _, target, _, layer_and_bits = name.split("/", 3)
      layer, _, bits = layer_and_bits.rpartition("/")
      if probability > best.get((target, layer), ("", 0.0))[1]:
        best[target, layer] = (bits, probability)
  selected = {}
  for (target, layer), (bits, _) in best.items():
    selected.setdefault(target, {})[layer] = bits
  return selected


def unmoved_targets(selections: Sequence[Mapping[str, Mapping[str, str]]]) -> list[str]:
  """The targets whose selected bits are the same in all of at least two `selected_bits`, every layer."""
  if len(selections) < 2:
    return []
  return [target for target, bits in selections[0].items() if all(later[target] == bits for later in selections[1:])]


class EpochWatch:
  """Sounds where no selected bit moves over a whole search epoch."""

  def __init__(self, steps_per_epoch: int, every_steps: int, num_steps: int):
    """`every_steps`: between two records; `num_steps`: of the phase, whose last step is recorded as well."""
    self._steps_per_epoch, self._every_steps, self._num_steps = steps_per_epoch, every_steps, num_steps
    self._selections = {}

  def look_at(self, step: int, line: Mapping[str, float]) -> str | None:
    """The alarm after a record, given in order of their steps; at an epoch's last record, or None.

    The records of the epoch count, and the last one before it.
    """
    selection = selected_bits(line)
    if not selection:
      return None
    self._selections[step] = selection
    epoch = (step - 1) // self._steps_per_epoch
    following = min((step // self._every_steps + 1) * self._every_steps, self._num_steps)
    if step < self._num_steps and (following - 1) // self._steps_per_epoch == epoch:
      return None
    before = max((s for s in self._selections if s <= epoch * self._steps_per_epoch), default=0)
    seen = [selection for s, selection in self._selections.items() if s >= before]
    targets = unmoved_targets(seen)
    if not targets:
      return None
    return (f"no selected bit moved over epoch {epoch + 1} at target {', '.join(targets)}: argmax alpha of every layer"
            f" is the same in {len(seen)} records")


class FloorWatch:
  """Sounds where a step size stays at its floor."""

  def __init__(self, floor: float, num_records: int):
    """`num_records`: so many in a row are an alarm."""
    self._floor, self._num_records, self._counts = np.float32(floor), num_records, {}

  def look_at(self, step_sizes: Mapping[str, np.ndarray]) -> str | None:
    """The alarm after a record of step sizes by name, scalars or one for each channel; once for each stay, or None."""
    low = [name for name, values in step_sizes.items() if np.min(values) <= self._floor]
    self._counts = {name: self._counts.get(name, 0) + 1 for name in low}
    stayed = [name for name, count in self._counts.items() if count == self._num_records]
    if not stayed:
      return None
    return f"at the floor, {self._floor:g}, in {self._num_records} records in a row: {', '.join(stayed)}"
