#!/usr/bin/env python
"""Compares two runs bit for bit: selected bits, records, and the saved arrays of every phase.

  python scripts/compare_runs.py runs/before runs/after

Use it to check that a change of the code changes no number. Times are not compared. It prints one line for each kind
of file, and ends with status 1 if anything differs.
"""

import json
import sys

from absl import app
from absl import logging as absl_logging
from flax import traverse_util
import numpy as np
import orbax.checkpoint as ocp

from metamix_jax.command_line import exit_on_user_error, flags_parser
from metamix_jax.errors import UserError
from metamix_jax.records.paths import local_folder
from metamix_jax.records.results import parse_results
from metamix_jax.reporting import saved_run

TIMES = ("wall_seconds", "images_per_second")


@exit_on_user_error("compare_runs")
def main(argv):
  """Compares two folders; a wrong folder becomes one sentence and status 2."""
  absl_logging.set_verbosity(absl_logging.WARNING)  # Orbax tells of every checkpoint that it reads.
  if len(argv) != 3:
    raise UserError(f"{len(argv) - 1} folders are given; it takes two.")
  runs = [local_folder(folder) for folder in argv[1:]]
  for run in runs:
    if not (run / "metrics.jsonl").exists():
      raise UserError(f"{run} is not the folder of a run with metrics: it has no metrics.jsonl.")
  differences = 0
  for name, read in (("selected bits", selected_bits), ("records", records), ("checkpoints", checkpoints)):
    first, second = map(read, runs)
    different = sorted(key for key in first.keys() | second.keys() if first.get(key) != second.get(key))
    differences += len(different)
    print(f"{name}: {len(first)} and {len(second)} compared, {len(different)} differ"
          + (f", first {different[0]}" if different else ""))
  sys.exit(1 if differences else 0)


def selected_bits(run):
  """Returns {(file, layer): bits}."""
  selected = lambda path: parse_results(
      path, lambda: dict(json.loads(path.read_text(encoding="utf-8"))["selected"]))
  return {(path.name, layer): bits for path in sorted(run.glob("selected_bits*.json"))
          for layer, bits in selected(path).items()}


def records(run):
  """Returns {(number of the line, name): value} of metrics.jsonl, without times."""
  path = run / "metrics.jsonl"
  records = parse_results(path, lambda: saved_run.records_of(path.read_text(encoding="utf-8")))
  return {(number, name): value for number, record in enumerate(records, 1) for name, value in record.items()
          if name not in TIMES}


def checkpoints(run):
  """Returns {(phase, path): (dtype, shape, bytes)} of the arrays that each finished phase saved."""
  arrays = {}
  for results in sorted((run / "checkpoints").glob("*.json")):
    with ocp.StandardCheckpointer() as checkpointer:
      tree = checkpointer.restore((run / "checkpoints" / results.stem).absolute())
    for path, leaf in traverse_util.flatten_dict(tree, sep="/").items():
      values = np.asarray(leaf)
      arrays[results.stem, path] = (str(values.dtype), values.shape, values.tobytes())
  return arrays


if __name__ == "__main__":
  app.run(main, flags_parser=flags_parser("compare_runs"))
