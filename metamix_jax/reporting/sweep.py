"""Sweeps: plans runs over a grid of config values, and writes their results side by side."""

from collections.abc import Iterator, Mapping, Sequence
import csv
import dataclasses
import io
import itertools
import json
import pathlib
import re
import statistics
from typing import Any

from matplotlib.figure import Figure
import ml_collections

from metamix_jax import config as config_rules
from metamix_jax.config_file import flatten, load_config
from metamix_jax.errors import UserError
from metamix_jax.records import paths
from metamix_jax.records.files import write_text
from metamix_jax.records.results import FULL_PRECISION_TOP1, TARGET_FIGURES
from metamix_jax.reporting.style import new_figure, save, series_style

# Columns of results.csv after the fields of the grid: first of the run, then of the row's target. Times are left out,
# because they differ between starts.
COLUMNS = (FULL_PRECISION_TOP1, *TARGET_FIGURES)
# Fields that do not separate the series of the plot: the repetitions, and the axis.
_WITHIN_SERIES = ("seed", "arch.target_gbops")


@dataclasses.dataclass(frozen=True)
class SweepRun:
  """Holds one run of a sweep.

  Attributes:
    values: {"section.field": value} of the grid; with several bases also "base".
    config: the config of the run.
    folder: its workdir.
    arguments: the arguments of python that start the run.
  """

  values: Mapping[str, Any]
  config: ml_collections.ConfigDict
  folder: pathlib.Path
  arguments: tuple[str, ...]

  def summary(self) -> dict[str, Any] | None:
    """Reads DIR/report/summary.json; None if the run is not finished, or the file has another config or other keys."""
    path = self.folder / "report" / "summary.json"
    try:
      summary = json.loads(path.read_text())
    except (OSError, ValueError):
      return None
    expected = json.loads(json.dumps(flatten(self.config)))
    return summary if summary.get("config") == expected and "targets" in summary else None


def plan(sweep: ml_collections.ConfigDict, workdir: pathlib.Path) -> list[SweepRun]:
  """Plans the runs of a sweep, in the order of its grid: fields in alphabetical order, the last one changing fastest.

  Args:
    sweep: "base", FILE or FILE:ARGUMENT of a config, or a tuple of them; "grid" and "fixed", ConfigDicts with fields of
      that config: tuples of values to combine, and values for every run.
    workdir: DIR of the sweep; each run has one folder in it.

  Raises:
    UserError: the sweep, or the config of one of its runs, is wrong.
  """
  for name in {"base", "grid", *sweep}:
    if name not in ("base", "grid", "fixed") or name not in sweep:
      problem = "no part of a sweep" if name in sweep else "missing"
      raise UserError(f"sweep.{name} is {problem}; it has base, grid and perhaps fixed.")
  bases = sweep.base if isinstance(sweep.base, tuple) and sweep.base else (sweep.base,)
  fixed = {name: value for name, value in _fields(sweep.get("fixed", {})) if value is not None}
  grid = dict(_fields(sweep.grid))
  for name, values in grid.items():
    if not isinstance(values, tuple) or not values:
      raise UserError(f"sweep.grid.{name} is {values!r}; it must be a tuple of values.")
  runs = {}
  for base, *combination in itertools.product(bases, *grid.values()):
    values = dict(zip(grid, combination, strict=True))
    overrides = fixed | values
    named_values = ({"base": base} if len(bases) > 1 else {}) | values
    folder = workdir / (",".join(f"{name}={_for_a_path(value)}" for name, value in named_values.items()) or "run")
    if folder in runs:
      raise UserError(f"sweep.grid gives two runs the folder {folder}; values of a field must differ in their names.")
    arguments = ("-m", "metamix_jax.main", f"--config={base}", f"--workdir={folder}", *(
        f"--config.{name}={value}" for name, value in overrides.items()))
    runs[folder] = SweepRun(named_values, _config(base, overrides), folder, arguments)
  return list(runs.values())


def write_results(runs: Sequence[SweepRun], workdir: pathlib.Path) -> None:
  """Writes DIR/results.csv, with a row for each target of each finished run, and DIR/accuracy_against_cost.png."""
  rows = list(_rows(runs))
  text = io.StringIO()
  writer = csv.DictWriter(text, [*runs[0].values, *COLUMNS], lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  write_text(workdir / "results.csv", text.getvalue())
  summaries = [summary for summary in (run.summary() for run in runs) if summary is not None]
  units = " or ".join(sorted({summary.get("cost_unit", "GBOPs") for summary in summaries}))  # Older runs have no key.
  save(lambda: accuracy_against_cost(rows, list(runs[0].values), units), workdir / "accuracy_against_cost.png")


def accuracy_against_cost(
    rows: Sequence[Mapping[str, Any]], grid: Sequence[str], unit: str = "GBOPs"
) -> Figure | None:
  """Draws top-1 over the cost of all rows of a results.csv; lines join the means over the seeds.

  Args:
    rows: {column: value} of each row.
    grid: names of the grid's fields; those other than seed and target separate the series.
    unit: of the cost.

  Returns:
    The figure; None without rows.
  """
  if not rows:
    return None
  figure = new_figure("Accuracy against cost of every run of the sweep", 8, 5.2)
  axes = figure.subplots()
  series = {}
  for row in rows:
    label = ", ".join(f"{name} {row[name]}" for name in grid if name not in _WITHIN_SERIES)
    for column, title in (("final_top1", "final"), ("meta_state_top1", "from the meta-state")):
      if row[column] is not None:
        series.setdefault(f"{label}, {title}".removeprefix(", "), []).append(
            (row["target_gbops"], row["gbops"], row[column]))
  for index, (label, reached) in enumerate(sorted(series.items())):
    style = series_style(index)
    targets = sorted({target for target, _, _ in reached})
    means = [[statistics.mean(row[part] for row in reached if row[0] == target) for part in (1, 2)]
             for target in targets]
    axes.plot(*zip(*means, strict=True), color=style["color"], linestyle=style["linestyle"], linewidth=1.3)
    axes.plot([cost for _, cost, _ in reached], [top1 for _, _, top1 in reached], style["marker"], color=style["color"],
              markerfacecolor="none", label=label)
  axes.set(xlabel=f"cost of one image [{unit}]", ylabel="top-1 on the evaluation split [%]")
  axes.margins(x=0.08, y=0.12)
  axes.grid()
  figure.legend(loc="outside lower center", ncols=2, title="lines: means over the seeds", title_fontsize=9)
  return figure


def _rows(runs: Sequence[SweepRun]) -> Iterator[dict[str, Any]]:
  """Yields {column: value} of each target of each finished run."""
  for run in runs:
    summary = run.summary()
    if summary is None:
      continue
    for target in summary["targets"]:
      figures = {FULL_PRECISION_TOP1: summary[FULL_PRECISION_TOP1]} | target
      yield {**run.values, **{name: figures[name] for name in COLUMNS}}


def _fields(section, prefix=""):
  """Yields ("section.field", value) of all fields of a ConfigDict."""
  for name, value in section.items():
    if isinstance(value, ml_collections.ConfigDict):
      yield from _fields(value, f"{prefix}{name}.")
    else:
      yield f"{prefix}{name}", value


def _config(base, overrides):
  """Returns the checked config of a file with some values replaced."""
  path, _, argument = base.partition(":")
  config = load_config(path, argument or None)
  try:
    config.update_from_flattened_dict(overrides)
  except (KeyError, AttributeError, TypeError) as error:
    sentence = str(error.args[0]).splitlines()[0].rstrip(".")
    raise UserError(
        f"the sweep sets a field that {base} does not have, or has of another type: {sentence}.") from error
  config_rules.validate(config)
  return paths.expand_paths(config)


def _for_a_path(value):
  """Writes a value for the name of a folder: words, numbers and dots, with _ for all other characters."""
  return re.sub(r"[^\w.+-]+", "_", str(value)).strip("_")
