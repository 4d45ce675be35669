"""Reads the files of a run, and nothing else: no step is traced, compiled or run."""

from collections.abc import Mapping
import dataclasses
import functools
import json
import pathlib
import sys
from typing import Any

import numpy as np

from metamix_jax.errors import UserError
from metamix_jax.method.bops import CostTable, LayerCost, cost_unit, uniform_widths
from metamix_jax.records.chosen_targets import ChosenTarget, read_chosen_targets
from metamix_jax.records.names import STAGES, TRAINING_PHASES, format_target, name_for_target
from metamix_jax.records.results import (
  FULL_PRECISION_TOP1,
  TOP1_OF_STAGE,
  ActivationStability,
  BitSelection,
  MetaEvaluation,
  TargetResult,
  UniformResult,
  parse_results,
)
from metamix_jax.records.search_quality import SearchQuality, read_search_quality

_KINDS = ("conv", "depthwise", "dense", "other")  # Of LayerCost.


@dataclasses.dataclass(frozen=True)
class SavedRun:
  """Holds the contents of a run's files.

  Attributes:
    folder: DIR.
    config: {"section.field": value} of DIR/config.json.
    layers: every quantised layer of DIR/network.json, in network order.
    records: the lines of DIR/metrics.jsonl.
    results: {phase: results} of each finished phase, from DIR/checkpoints/PHASE.json.
    summary: contents of DIR/report/summary.json; None: the run is not finished.
    search_quality: of DIR/report/search_quality.json; None: it was not measured, or is outdated.
    chosen_targets: of DIR/report/chosen_targets.json, ascending; (): no target was chosen after the search.
    search_quality_is_outdated: True if DIR/report/search_quality.json is there, but of other bits than the selected.
  """

  folder: pathlib.Path
  config: Mapping[str, Any]
  layers: tuple[LayerCost, ...]
  records: tuple[Mapping[str, Any], ...]
  results: Mapping[str, Mapping[str, Any]]
  summary: Mapping[str, Any] | None
  search_quality: SearchQuality | None = None
  chosen_targets: tuple[ChosenTarget, ...] = ()
  search_quality_is_outdated: bool = False

  @functools.cached_property
  def targets(self) -> list[float]:
    """Returns the targets in GBOPs of one image, ascending."""
    return _as_list(self.config["arch.target_gbops"])

  @property
  def unit(self) -> str:
    """Returns the unit of all costs and targets: "GBOPs", or that of the run's cost table."""
    return cost_unit(self.layers)

  @functools.cached_property
  def full_precision_top1(self) -> float | None:
    """Returns top-1 in percent of the network after pretraining; None before."""
    return self.results.get("pretraining", {}).get(FULL_PRECISION_TOP1)

  @functools.cached_property
  def target_results(self) -> tuple[TargetResult, ...]:
    """Returns the selection of each target, with its top-1s so far; () before the end of the bit selection."""
    if self._bit_selection is None:
      return ()
    evaluated = self._meta_evaluation.targets if self._meta_evaluation else {}
    results = []
    for result in self._bit_selection.targets:
      top1s: dict[str, Any] = {
          name: self.results.get(self.phase_of(stage, result.target_gbops), {}).get(name)
          for stage, name in TOP1_OF_STAGE.items()}
      results.append(dataclasses.replace(result, meta_state_top1=evaluated.get(result.target_gbops), **top1s))
    return tuple(results)

  @functools.cached_property
  def uniform_results(self) -> tuple[UniformResult, ...]:
    """Returns the result at each uniform bit-width, ascending; its top-1s are None before they are evaluated."""
    if self._meta_evaluation:
      return self._meta_evaluation.uniform
    return tuple(UniformResult(bits, self.layers) for bits in uniform_widths(self.layers))

  @functools.cached_property
  def activation_stability(self) -> ActivationStability | None:
    """Returns distances before and after bit-meta training; None before the end of the bit selection, or without it."""
    return self._bit_selection.activation_stability if self._bit_selection else None

  @functools.cached_property
  def phase_states(self) -> dict[str, str]:
    """Returns {phase: "finished ...", "is under way ..." or "has not begun"}, in the order of the run.

    The stages of targets that a finished run did not train are left out.
    """
    names = ["pretraining", "bit_selection", "meta_evaluation"]
    names += [self.phase_of(stage, target) for target in self.targets for stage in STAGES]
    states = {}
    for name in names:
      lines = [line for line in self.records if line["phase"] == name]
      if name in self.results:
        states[name] = f"finished after {self.results[name]['seconds']:.0f} s"
      elif lines:
        section = next(phase for phase in TRAINING_PHASES if name.startswith(phase))
        states[name] = f"is under way, epoch {lines[-1]['epoch']:.2f} of {self.config[f'{section}.epochs']}"
      elif self.summary is None:
        states[name] = "has not begun"
    return states

  def series(self, phase: str, name: str, over: str = "step") -> tuple[np.ndarray, np.ndarray]:
    """Returns (steps or epochs, values) of a metric of a phase, both float64 [records with this metric]."""
    pairs = [(line[over], line[name]) for line in self.records if line["phase"] == phase and name in line]
    over_values, values = np.array(pairs, np.float64).reshape(-1, 2).T
    return over_values, values

  def search_series(self, target_gbops: float, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (steps, values) of the metric search/TARGET/NAME of the bit selection, as `series` does."""
    return self.series("bit_selection", f"search/{format_target(target_gbops)}/{name}")

  def phase_of(self, stage: str, target_gbops: float) -> str:
    """Returns the name of the phase in which a target goes through a stage of weight training."""
    return name_for_target(stage, target_gbops, self.targets)

  @functools.cached_property
  def _bit_selection(self):
    values, tolerance = self.results.get("bit_selection"), self.config["arch.target_tolerance"]
    return None if values is None else BitSelection.from_json(values, self.layers, tolerance)

  @functools.cached_property
  def _meta_evaluation(self):
    values = self.results.get("meta_evaluation")
    return None if values is None else MetaEvaluation.from_json(values, self.layers, self.targets)


def read(folder: pathlib.Path) -> SavedRun:
  """Reads a run's folder, whether the run is finished or still going.

  Raises:
    UserError: the folder does not hold a run, or one of its files is damaged; the sentence names the file.
  """
  if not (folder / "config.json").exists():
    raise UserError(f"{folder} is no folder of a run: there is no config.json in it.")
  config = _parse(folder / "config.json", _config)
  layers = _parse(folder / "network.json", _layers)
  records = _parse(folder / "metrics.jsonl", records_of) if (folder / "metrics.jsonl").exists() else ()
  results = {path.stem: _parse(path, functools.partial(_results, path.stem))
             for path in sorted((folder / "checkpoints").glob("*.json"))}
  summary = folder / "report" / "summary.json"
  if layers[0].cost is not None:
    parse_results(folder / "config.json", lambda: config["arch.cost"], beside=(folder / "network.json",))
  run = SavedRun(
      folder, config, layers, records, results, _parse(summary, _summary) if summary.exists() else None,
      read_search_quality(folder, layers), read_chosen_targets(folder, layers, config["arch.target_tolerance"]))
  beside = (folder / "network.json", folder / "config.json")
  parse_results(folder / "checkpoints" / "bit_selection.json", lambda: run.activation_stability, beside=beside)
  parse_results(folder / "checkpoints" / "meta_evaluation.json", lambda: run.uniform_results, beside=beside)
  if run.search_quality is not None and not run.search_quality.is_of(run.target_results):
    return dataclasses.replace(run, search_quality=None, search_quality_is_outdated=True)
  return run


def _parse(path, read_text):
  if not path.exists():
    raise UserError(f"{path} is not there; the folder is of no run, or of one that has not begun.")
  return parse_results(path, lambda: read_text(path.read_text()))


def _object(text):
  value = json.loads(text)
  if not isinstance(value, dict):
    raise TypeError("it holds no JSON object")
  return value


def _config(text):
  config = _object(text)
  for name in ("arch.target_gbops", "network.name", "data.name", "seed"):
    config[name]  # KeyError: not a config of a run.
  for target in _as_list(config["arch.target_gbops"]):
    _check_number("arch.target_gbops", target)
  for name in ("arch.target_tolerance", *(f"{phase}.epochs" for phase in TRAINING_PHASES)):
    _check_number(name, config[name])
  return config


def _results(phase, text):
  results = _object(text)
  top1s = {"pretraining": FULL_PRECISION_TOP1} | TOP1_OF_STAGE
  # A stage of one target among several has the target at the end of its name. BitSelection and MetaEvaluation check
  # what the other two phases have besides.
  for name in ("seconds", *(top1 for section, top1 in top1s.items() if phase.startswith(section))):
    _check_number(name, results[name])
  return results


def _summary(text):
  summary = _object(text)
  if not isinstance(summary.get("versions", {}), dict):
    raise TypeError("'versions' is no JSON object")
  return summary


def _check_number(name, value):
  if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:  # False for NaN as well.
    raise ValueError(f"{name!r} is {value!r}; it must be a number")


def _layers(text):
  layers = []
  for entry in _object(text)["layers"]:
    values = {field.name: entry[field.name] for field in dataclasses.fields(LayerCost)
              if field.default is dataclasses.MISSING}
    for name in ("macs", "input_elements", "weight_bits"):
      _check_number(name, values[name])
    if not isinstance(values["name"], str) or values["kind"] not in _KINDS:
      raise ValueError(f"layer {values['name']!r} is of the kind {values['kind']!r}; allowed are {_KINDS}")
    candidate_bits = tuple(map(int, values["candidate_bits"]))
    if not candidate_bits:
      raise ValueError(f"layer {values['name']!r} has no candidate bits")
    layers.append(LayerCost(
        **values | {"candidate_bits": candidate_bits}, weight_elements=entry.get("weight_elements"),
        cost=_cost(entry.get("cost"), len(candidate_bits)),
        candidate_weight_bits=tuple(map(int, entry.get("candidate_weight_bits", ())))))
  if not any(layer.searched for layer in layers):
    raise ValueError("none of its layers is searched")
  return tuple(layers)


def _cost(values, num_candidates):
  if values is None:
    return None
  costs = tuple(map(float, values["values"]))
  if len(costs) != num_candidates:
    raise ValueError(f"a layer with {num_candidates} candidates has {len(costs)} costs")
  return CostTable(str(values["name"]), str(values["unit"]), costs)


def records_of(text: str) -> tuple[dict[str, Any], ...]:
  """Returns the lines of metrics.jsonl, but for an incomplete last one; raises ValueError for one that is no record."""
  whole, _, _ = text.rpartition("\n")  # An incomplete last line is still being written.
  records = []
  for number, line in enumerate(whole.splitlines(), 1):
    try:
      record = _object(line)
      phase, numbers = record["phase"], [value for name, value in record.items() if name != "phase"]
      known = isinstance(phase, str) and phase.startswith(TRAINING_PHASES)
      if not known or not {"step", "epoch"} <= record.keys() or not all(
          isinstance(value, (int, float)) for value in numbers):
        raise ValueError("it is not a record of a step")
    except (KeyError, TypeError, ValueError) as error:
      raise ValueError(f"line {number}: {error}") from error
    records.append(record)
  return tuple(records)


def _as_list(value):
  return list(value) if isinstance(value, (list, tuple)) else [value]
