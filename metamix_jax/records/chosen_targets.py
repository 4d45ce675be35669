"""Targets that were chosen after the search, and their JSON in DIR/report/chosen_targets.json."""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
import re
from typing import Any

from metamix_jax.method.bops import LayerCost
from metamix_jax.records.files import write_json
from metamix_jax.records.names import format_target
from metamix_jax.records.results import TargetResult, parse_results

# Of a run's folder.
FILE = pathlib.PurePath("report", "chosen_targets.json")


@dataclasses.dataclass(frozen=True)
class ChosenTarget:
  """Holds a target for which bits were chosen after the search: from the searches of others, or by sensitivity.

  Attributes:
    result: its selection, and top-1 straight from the meta-state.
    searches: {searched target in GBOPs: its weight}, as method.selection.weights_of_searches returns them; {}: the bits
      are those of the sensitivity of one layer at a time.
  """

  result: TargetResult
  searches: Mapping[float, float]

  @property
  def name(self) -> str:
    """Returns the target's name in files: its first six digits, how it was chosen, and each further limit."""
    how = "" if self.searches else "_by_sensitivity"
    limits = "".join(f"_{limit.name}_{format_target(limit.most)}" for limit in self.result.limits)
    return format_target(self.result.target_gbops) + how + re.sub(r"[^\w.+-]", "_", limits)

  @property
  def label(self) -> str:
    """Returns what tables say about it: "chosen afterwards" or "by sensitivity", and the further limits."""
    return ", ".join(["chosen afterwards" if self.searches else "by sensitivity", *map(str, self.result.limits)])


def write_chosen_target(
    workdir: pathlib.Path, chosen: ChosenTarget, layers: Sequence[LayerCost], tolerance: float
) -> None:
  """Adds a target to DIR/report/chosen_targets.json; it replaces an earlier one of the same name.

  Args:
    workdir: DIR, which no other process works on.
    chosen: the target.
    layers: every quantised layer of the run.
    tolerance: fraction of the target that may stay unused.

  Raises:
    UserError: the file is damaged, or cannot be written.
  """
  others = [other for other in read_chosen_targets(workdir, layers, tolerance) if other.name != chosen.name]
  targets = sorted([*others, chosen], key=lambda other: other.result.target_gbops)
  write_json(workdir / FILE, {"targets": [
      target.result.to_json() | {"searches": [
          {"target_gbops": searched, "weight": weight} for searched, weight in target.searches.items()]}
      for target in targets]})


def read_chosen_targets(
    workdir: pathlib.Path, layers: Sequence[LayerCost], tolerance: float
) -> tuple[ChosenTarget, ...]:
  """Reads the chosen targets of a run, ascending; () if the file does not exist.

  Raises:
    UserError: the file is damaged, or it does not fit the layers.
  """
  path = workdir / FILE
  if not path.exists():
    return ()
  return parse_results(
      path, lambda: _parse(json.loads(path.read_text(encoding="utf-8")), layers, tolerance),
      beside=(workdir / "network.json",))


def _parse(values: Any, layers, tolerance):
  return tuple(
      ChosenTarget(
          TargetResult.from_json(entry, layers, tolerance),
          {float(search["target_gbops"]): float(search["weight"]) for search in entry["searches"]})
      for entry in values["targets"])
