#!/usr/bin/env python
"""Compares two files of bench.py: what each step costs, in units of the full-precision step of its own run.

  python scripts/benchmarks/bench.py --config=configs/digits.py --rounds=9 --json=now.json
  python scripts/benchmarks/compare_benchmarks.py docs/evidence/benchmarks/digits.json now.json

Times differ between machines and hours by far more than between two versions of a program, so ratios within a run are
compared. A ratio, the temporaries or the operations of a step that rise by more than --tolerance end with status 1. The
full-precision step is the unit: where it gets faster, the other ratios rise, and what slows all steps down alike shows
in the ratios to PyTorch alone.
"""

from collections.abc import Mapping, Sequence
import pathlib
import sys
from typing import Any, TypeAlias

from absl import app, flags
from benchmark_file import read_benchmark

from metamix_jax.command_line import exit_on_user_error, flags_parser
from metamix_jax.errors import UserError

_TOLERANCE = flags.DEFINE_float("tolerance", 0.1, "Part of a figure that it may rise by.", lower_bound=0.0)

# Of a file: what has to be equal for its ratios to be comparable.
SAME = ("network", "image_size", "batch_size", "candidate_bits", "targets", "compute_dtype", "matmul_precision",
        "teacher", "device", "num_devices", "cores")
Change: TypeAlias = tuple[str, str, float, float]  # Step, figure, before, after.
FIGURES = {"in_f": "in F", "in_torch_f": "in PyTorch F", "temporaries_mb": "temporaries [MB]", "gflop": "GFLOP"}


@exit_on_user_error("compare_benchmarks")
def main(argv):
  """Prints a table and ends with status 1 where something rose; a UserError becomes one sentence and status 2."""
  before, after = read_arguments(argv)
  check_comparable(before["facts"], after["facts"])
  rows = changes(before["steps"], after["steps"])
  if not rows:
    raise UserError("the two files have no step in common; measure the same steps.")
  print("| step | figure | before | after | change |\n|---|---|---|---|---|")
  for step, figure, old, new in rows:
    change = f"{100 * (new / old - 1):+.1f} %" if old else ""
    print(f"| {step} | {FIGURES[figure]} | {old:.4g} | {new:.4g} | {change} |")
  alone = sorted(before["steps"].keys() ^ after["steps"].keys())
  if alone:
    print(f"\nIn one of the files alone: {', '.join(alone)}.")
  above = risen(rows, _TOLERANCE.value)
  if above:
    print(f"\nMore than {_TOLERANCE.value:.0%} above: {'; '.join(above)}.")
    sys.exit(1)


def read_arguments(argv: Sequence[str]) -> list[dict[str, Any]]:
  """Reads the two files of a command; raises UserError if there are not two."""
  if len(argv) != 3:
    raise UserError("two files of bench.py --json are needed, the earlier one first.")
  return [read_benchmark(pathlib.Path(path)) for path in argv[1:]]


def check_comparable(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
  """Raises UserError where two files are of other things: the first fact that differs."""
  for name in SAME:
    if before.get(name) != after.get(name):
      raise UserError(
          f"{name} is {before.get(name)!r} in the first file and {after.get(name)!r} in the second; files of the same "
          "config and kind of machine can be compared.")


def changes(before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]) -> list[Change]:
  """Returns (step, figure, before, after) of what both files have; the full-precision step itself is the unit."""
  rows = [
      (name, figure, old.get(figure), after[name].get(figure))
      for name, old in before.items() if name in after
      for figure in FIGURES if not (figure == "in_f" and name.startswith("F:"))]
  return [row for row in rows if None not in row]


def risen(rows: Sequence[Change], tolerance: float) -> list[str]:
  """Returns the step and figure, in words, of what rises by more than `tolerance` of itself."""
  return [f"{step}, {FIGURES[figure]}" for step, figure, old, new in rows if new > (1 + tolerance) * old]


if __name__ == "__main__":
  app.run(main, flags_parser=flags_parser("compare_benchmarks"))
