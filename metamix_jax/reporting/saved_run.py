"""What a run has written so far, read from its folder alone: nothing is traced, compiled or trained."""

from collections.abc import Mapping
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from metamix_jax.errors import UserError
from metamix_jax.method.bops import LayerCost, gbops, uniform_bits
from metamix_jax.records.names import STAGES, TRAINING_PHASES, format_target
from metamix_jax.records.summary import pareto_point


@dataclasses.dataclass(frozen=True)
class SavedRun:
  """The files of a run.

  Attributes:
    folder: DIR.
    config: {"section.field": value}, DIR/config.json.
    layers: every quantised layer in network order, DIR/network.json.
    records: the lines of DIR/metrics.jsonl.
    results: of each finished phase, by its name, DIR/checkpoints/PHASE.json.
    summary: DIR/report/summary.json; None: the run is not finished.
  """

  folder: pathlib.Path
  config: Mapping[str, Any]
  layers: tuple[LayerCost, ...]
  records: tuple[Mapping[str, Any], ...]
  results: Mapping[str, Mapping[str, Any]]
  summary: Mapping[str, Any] | None

  @property
  def targets(self) -> list[float]:
    """The budgets in GBOPs of one image."""
    return _as_list(self.config["arch.target_gbops"])

  @property
  def candidate_bits(self) -> tuple[int, ...]:
    """The bit-widths that a searched layer may have."""
    return next(layer.candidate_bits for layer in self.layers if layer.searched)

  def series(self, phase: str, name: str, over: str = "step") -> tuple[np.ndarray, np.ndarray]:
    """A metric of a phase over its steps or epochs, both float64 [number of records that have it]."""
    points = [(line[over], line[name]) for line in self.records if line["phase"] == phase and name in line]
    over_values, values = np.array(points, np.float64).reshape(-1, 2).T
    return over_values, values

  def phase_of(self, stage: str, target_gbops: float) -> str:
    """Name of the phase in which a budget goes through a stage of weight training."""
    return stage if len(self.targets) == 1 else f"{stage}_{format_target(target_gbops)}"


def read(folder: pathlib.Path) -> SavedRun:
  """Reads a run's folder, whether the run is finished or still going.

  Raises:
    UserError: this is no folder of a run, or one of its files is damaged; the sentence names the file.
  """
  if not (folder / "config.json").exists():
    raise UserError(f"{folder} is no folder of a run: there is no config.json in it.")
  config = _parse(folder / "config.json", _config)
  layers = _parse(folder / "network.json", _layers)
  records = _parse(folder / "metrics.jsonl", _records) if (folder / "metrics.jsonl").exists() else ()
  results = {path.stem: _parse(path, _results) for path in sorted((folder / "checkpoints").glob("*.json"))}
  summary = folder / "report" / "summary.json"
  run = SavedRun(folder, config, layers, records, results, _parse(summary, _object) if summary.exists() else None)
  for phase, read_results in (("bit_selection", pareto_points), ("meta_evaluation", uniform_points)):
    try:
      read_results(run)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
      raise _unreadable(folder / "checkpoints" / f"{phase}.json", error) from error
  return run


def pareto_points(run: SavedRun) -> list[dict[str, Any]]:
  """What was selected for each target, as report.pareto_point; [] before the end of the bit selection.

  "selected_top1", "stage_a_top1" and "final_top1" are None where they were not evaluated, or not yet.
  """
  points = []
  for budget in run.results.get("bit_selection", {}).get("budgets", ()):
    target = budget["target_gbops"]
    from_meta_state = run.results.get("meta_evaluation", {}).get("selected_top1", {})
    points.append(pareto_point(run.layers, budget | {
        "selected_top1": from_meta_state.get(format_target(target)),
        "stage_a_top1": run.results.get(run.phase_of("stage_a", target), {}).get("stage_a_top1"),
        "final_top1": run.results.get(run.phase_of("stage_b", target), {}).get("final_top1"),
    }, run.config["arch.target_tolerance"]))
  return points


def all_bits(run: SavedRun, point: Mapping[str, Any]) -> dict[str, int]:
  """Activation bits of every quantised layer of a Pareto point, in network order."""
  return {layer.name: point["selected"].get(layer.name, layer.candidate_bits[0]) for layer in run.layers}


def uniform_points(run: SavedRun) -> list[tuple[int, float, float | None]]:
  """(bits, GBOPs, top-1 in percent) with every searched layer at the same bits, straight from the meta-state.

  Top-1 with batch-norm statistics re-estimated for those bits; None before it was evaluated.
  """
  evaluated = run.results.get("meta_evaluation", {}).get("meta_state_top1", {})
  points = []
  for index, bits in enumerate(run.candidate_bits):
    top1 = float(evaluated[str(bits)]["reestimated"]) if evaluated else None
    points.append((bits, gbops(run.layers, uniform_bits(run.layers, index)), top1))
  return points


def phase_states(run: SavedRun) -> dict[str, str]:
  """{phase: "finished ...", "is under way ..." or "has not begun"}, in the order of the run.

  Budgets whose weights a finished run did not train are left out.
  """
  names = ["pretraining", "bit_selection", "meta_evaluation"]
  names += [run.phase_of(stage, target) for target in run.targets for stage in STAGES]
  states = {}
  for name in names:
    lines = [line for line in run.records if line["phase"] == name]
    if name in run.results:
      states[name] = f"finished after {run.results[name]['seconds']:.0f} s"
    elif lines:
      section = next(phase for phase in TRAINING_PHASES if name.startswith(phase))
      states[name] = f"is under way, epoch {lines[-1]['epoch']:.2f} of {run.config[f'{section}.epochs']}"
    elif run.summary is None:
      states[name] = "has not begun"
  return states


def _parse(path, read_text):
  try:
    return read_text(path.read_text())
  except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
    raise _unreadable(path, error) from error


def _unreadable(path, error):
  if isinstance(error, FileNotFoundError):
    return UserError(f"{path} is not there; the folder is of no run, or of one that has not begun.")
  reason = f"{error} is missing" if isinstance(error, KeyError) else str(error).splitlines()[0].rstrip(".")
  return UserError(f"{path} cannot be read ({reason}); it is damaged, or not written by a run.")


def _object(text):
  value = json.loads(text)
  if not isinstance(value, dict):
    raise TypeError("it holds no JSON object")
  return value


def _config(text):
  config = _object(text)
  for name in ("arch.target_gbops", "arch.target_tolerance", "network.name", "data.name", "seed",
               *(f"{phase}.epochs" for phase in TRAINING_PHASES)):
    config[name]  # pylint: disable=pointless-statement  KeyError: not a config of a run.
  for target in _as_list(config["arch.target_gbops"]):
    float(target)
  return config


def _results(text):
  results = _object(text)
  float(results["seconds"])  # Every phase has them.
  return results


def _layers(text):
  layers = []
  for entry in _object(text)["layers"]:
    values = {field.name: entry[field.name] for field in dataclasses.fields(LayerCost)}
    layers.append(LayerCost(**values | {"candidate_bits": tuple(map(int, values["candidate_bits"]))}))
  if not any(layer.searched for layer in layers):
    raise ValueError("none of its layers is searched")
  return tuple(layers)


def _records(text):
  whole, _, _ = text.rpartition("\n")  # What is behind it is still being written.
  records = []
  for number, line in enumerate(whole.splitlines(), 1):
    try:
      record = _object(line)
      numbers = [value for name, value in record.items() if name != "phase"]
      if not isinstance(record["phase"], str) or "step" not in record or "epoch" not in record or not all(
          isinstance(value, (int, float)) for value in numbers):
        raise ValueError("it is no record of a step")
    except (KeyError, TypeError, ValueError) as error:
      raise ValueError(f"line {number}: {error}") from error
    records.append(record)
  return tuple(records)


def _as_list(value):
  return list(value) if isinstance(value, (list, tuple)) else [value]
