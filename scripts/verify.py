#!/usr/bin/env python
"""Verifies a finished run: computes its figures and fingerprints again from its files, and evaluates it again.

  python scripts/verify.py runs/digits

It prints every figure that differs, then "same" with status 0, or how many differ with status 1. These are compared
without any tolerance: the bits of every target, costs and average bits; the fingerprint of the meta-state and of each
trained network (SHA-256 of bits, weights, step sizes and batch statistics); and each top-1, which is equal to the last
digit on the same machine. It writes nothing.
"""

from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
import sys
from typing import Any

from absl import app
from absl import logging as absl_logging

from metamix_jax.command_line import exit_on_user_error, flags_parser, folder_of_run
from metamix_jax.errors import UserError
from metamix_jax.method.precision import FULL_PRECISION, assigned_precision
from metamix_jax.records import folder_lock
from metamix_jax.records.names import format_target, name_for_target
from metamix_jax.records.progress import log_to_terminal
from metamix_jax.records.results import TOP1_OF_STAGE, parse_results
from metamix_jax.reporting import saved_run

# (what, as the files say, as it is now).
Check = tuple[str, Any, Any]


@exit_on_user_error("verify")
def main(argv):
  """Verifies a folder; a UserError becomes one sentence and status 2."""
  workdir = folder_of_run(argv)
  run = saved_run.read(workdir)
  if run.summary is None:
    raise UserError(f"{workdir} holds a run that is not finished; allowed is one with a report/summary.json.")
  absl_logging.set_verbosity(absl_logging.FATAL)
  log_to_terminal()
  # An archive that cannot be written to can be verified: no run works on it.
  parse_results(workdir / "report" / "summary.json", lambda: _figures(run))
  with folder_lock.hold(workdir) if os.access(workdir, os.W_OK) else contextlib.nullcontext():
    checks = [*check_files(run), *check_states(run)]
  if "fingerprints" not in run.summary:
    print("The summary has no fingerprints; an older version wrote it.")
  different = [check for check in checks if check[1] != check[2]]
  for what, saved, now in different:
    print(f"{what}: {saved} in the summary, {now} now")
  if different:
    print(f"{len(different)} of {len(checks)} figures differ.")
    sys.exit(1)
  print(f"same: {len(checks)} figures.")


def _figures(run):
  """Reads every figure that is compared; raises KeyError, TypeError or ValueError if one is not there."""
  summary = run.summary
  for name, results in (("targets", run.target_results), ("uniform", run.uniform_results)):
    if len(summary[name]) != len(results):
      raise ValueError(f"{name!r} has {len(summary[name])} entries, and the phases have {len(results)}")
  return (summary["full_precision_top1"],
          [(target["bits"], target["meta_state_top1"], *(target[name] for name in TOP1_OF_STAGE.values()))
           for target in summary["targets"]],
          [(result["gbops"], result["top1"], result["shared_top1"]) for result in summary["uniform"]])


def check_files(run: saved_run.SavedRun) -> Iterator[Check]:
  """Yields the figures of the summary beside those that follow from the other files: bits, costs, average bits."""
  for saved, result in zip(run.summary["targets"], run.target_results, strict=True):
    target = format_target(result.target_gbops)
    now = json.loads(json.dumps(result.to_json()))
    for name, value in now.items():
      yield f"target {target}, {name}", saved.get(name), value
    name = name_for_target("selected_bits", result.target_gbops, run.targets)
    path = run.folder / f"{name}.json"
    selected = parse_results(path, lambda path=path: dict(json.loads(path.read_text(encoding="utf-8"))["selected"]))
    yield f"target {target}, {path.name}", saved["bits"], selected
  for saved, result in zip(run.summary["uniform"], run.uniform_results, strict=True):
    yield f"cost of all searched layers at {result.bits} bits", saved["gbops"], result.gbops


def check_states(run: saved_run.SavedRun) -> Iterator[Check]:
  """Yields fingerprints and top-1s of the summary beside those of the saved states, computed now."""
  # Here, because JAX and TensorFlow take seconds to load.
  from metamix_jax.training import saved_search
  from metamix_jax.training.evaluation import evaluate, evaluate_bits, evaluate_uniform_bits
  from metamix_jax.training.fingerprint import fingerprint

  summary, folder = run.summary, pathlib.Path(run.folder)
  fingerprints = summary.get("fingerprints", {})
  context = saved_search.open_run(folder)
  yield ("full_precision_top1", summary["full_precision_top1"],
         evaluate(context, saved_search.load_full_precision(context, folder), FULL_PRECISION))
  meta = saved_search.load_meta_state(context, folder)
  if "bit_selection" in fingerprints:
    yield "fingerprint of the meta-state", fingerprints["bit_selection"], fingerprint(meta, {})
  for saved, result in zip(summary["uniform"], evaluate_uniform_bits(context, meta), strict=True):
    for name in ("top1", "shared_top1"):
      yield f"{name} of all searched layers at {result.bits} bits", saved[name], getattr(result, name)
  for saved, result in zip(summary["targets"], run.target_results, strict=True):
    target = format_target(result.target_gbops)
    yield f"target {target}, meta_state_top1 evaluated", saved["meta_state_top1"], evaluate_bits(
        context, meta, result.bits)
    for stage, name in TOP1_OF_STAGE.items():
      if saved[name] is None:
        continue
      phase = run.phase_of(stage, result.target_gbops)
      trained = saved_search.load_trained(context, folder, phase)
      yield f"target {target}, {name} evaluated", saved[name], evaluate(
          context, trained, assigned_precision(context.network.layers, result.bits))
      if phase in fingerprints:
        yield f"fingerprint of {phase}", fingerprints[phase], fingerprint(trained, result.bits)


if __name__ == "__main__":
  app.run(main, flags_parser=flags_parser("verify"))
