#!/usr/bin/env python
"""Chooses bits for targets that a finished search did not have, and adds them to the report of the run.

  python scripts/choose.py runs/curve --target=0.03
  python scripts/choose.py runs/curve --target=0.022 --target=0.027 --target=0.034
  python scripts/choose.py runs/curve --target=0.03 --at_most=peak_activation_bytes=600 --at_most=phone.csv=1.9
  python scripts/choose.py runs/curve --target=0.03 --by=sensitivity

The bits follow from the saved alphas of the searched targets (docs/targets.md says how), in a moment. With
--by=sensitivity they follow from the loss with one layer at a time at each of its bit-widths, which is measured first,
on training images straight from the meta-state; a searched target may be chosen again so. The accuracy is evaluated
straight from the meta-state, as that of the searched targets was. Each target is written to
DIR/selected_bits_TARGET.json and DIR/report/chosen_targets.json, and the page is made again. A command is printed for
each one, which trains it.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import os
import pathlib
import shlex
from typing import TYPE_CHECKING

from absl import app, flags
from absl import logging as absl_logging
import numpy as np

from metamix_jax.command_line import exit_on_user_error, flags_parser, folder_of_run
from metamix_jax.config import check_target
from metamix_jax.config_file import load_config
from metamix_jax.errors import UserError
from metamix_jax.method.bops import attainable_range, complete_bits, cost_unit
from metamix_jax.method.selection import alpha_for_target, most_probable_bits, weights_of_searches
from metamix_jax.records import folder_lock
from metamix_jax.records.alpha import read_alpha
from metamix_jax.records.chosen_targets import ChosenTarget, write_chosen_target
from metamix_jax.records.limits import read_limits
from metamix_jax.records.names import format_target
from metamix_jax.records.progress import log_to_terminal
from metamix_jax.records.results import TargetResult
from metamix_jax.records.selected_bits import write_selected_bits
from metamix_jax.reporting import page, saved_run, tables

if TYPE_CHECKING:
  from metamix_jax.training.context import TrainingContext
  from metamix_jax.training.state import MetaState

SETTINGS = pathlib.Path(__file__).parents[1] / "configs" / "search_quality.py"  # Of the sensitivity.
OF_RUN = pathlib.Path(__file__).parents[1] / "configs" / "of_run.py"
_AT_MOST = flags.DEFINE_multi_string(
    "at_most", [], "COST=VALUE, a further limit: COST is bops, activation_bytes, peak_activation_bytes or a CSV file.")
_BY = flags.DEFINE_enum("by", "search", ["search", "sensitivity"], "What bits follow from.")
_TARGETS = flags.DEFINE_multi_float(
    "target", None, "Cost of one image, in GBOPs or the unit of config.arch.cost; may be given several times.")


@exit_on_user_error("choose")
def main(argv):
  """Chooses, evaluates and reports; a UserError becomes one sentence and status 2."""
  workdir = folder_of_run(argv)
  run = saved_run.read(workdir)
  targets, by_sensitivity = sorted(_TARGETS.value), _BY.value == "sensitivity"
  # Before anything is measured: a wrong target or limit is found with any values.
  results = settle(run, targets, _AT_MOST.value, _no_losses(run) if by_sensitivity else None)
  absl_logging.set_verbosity(absl_logging.FATAL)
  log_to_terminal()
  with folder_lock.hold(workdir):
    context, meta = _load(workdir)
    if by_sensitivity:
      results = settle(run, targets, _AT_MOST.value, _measure_losses(context, meta, workdir))
    for chosen in _evaluate(context, meta, results):
      write_selected_bits(_bits_file(workdir, chosen), chosen.result.bits)
      write_chosen_target(workdir, chosen, run.layers, run.config["arch.target_tolerance"])
    written = page.write(workdir)
  print("\n".join(tables.format_curve(saved_run.read(workdir))))
  for chosen in results:
    name = format_target(chosen.result.target_gbops)
    print(f"\nTo train {name} {cost_unit(run.layers)}, {_words(chosen)}:\n  {training_command(workdir, chosen)}")
  print(f"\nWritten: {', '.join(map(str, (written, *(_bits_file(workdir, chosen) for chosen in results))))}")


def settle(
    run: saved_run.SavedRun, targets: Sequence[float], at_most: Sequence[str] = (),
    losses: Mapping[str, Sequence[float]] | None = None,
) -> list[ChosenTarget]:
  """Selects bits for targets from the saved alphas of a run, or from sensitivity; nothing is evaluated yet.

  Args:
    run: with a finished search.
    targets: in the unit of its cost.
    at_most: limits besides those of the run's config, COST=VALUE.
    losses: {layer name: [B]} of training.sensitivity, in nats, whose sum is then least; None: the alphas serve.

  Raises:
    UserError: a target was searched (and there are neither further limits nor losses), is given twice or cannot be
      reached, a limit is wrong, no assignment keeps all limits, or the search is not finished.
  """
  tolerance, layers = run.config["arch.target_tolerance"], run.layers
  alpha = read_alpha(run.folder, layers) if losses is None else {}  # Without a search there is none.
  limits = read_limits(layers, (*(run.config.get("arch.at_most") or ()), *at_most), "--at_most or config.arch.at_most")
  searched, chosen = set() if at_most or losses else {format_target(target) for target in run.targets}, []
  for target in targets:
    name = format_target(target)
    if name in searched:
      raise UserError(
          f"--target is {name}, which the run in {run.folder} searched, or which is given twice; allowed are other "
          "targets.")
    searched.add(name)
    check_target(target, attainable_range(layers), cost_unit(layers), "--target")
    served = alpha_for_target(alpha, target) if losses is None else {
        name: -np.asarray(values, np.float64) for name, values in losses.items()}
    bits = limits.select(layers, served, target, tolerance)
    chosen.append(ChosenTarget(
        TargetResult(
            target, layers, tolerance, bits, most_probable_bits(layers, served),
            limits=limits.kept_by(layers, complete_bits(layers, bits))),
        {} if losses else weights_of_searches(alpha, target)))
  return chosen


def training_command(workdir: pathlib.Path, chosen: ChosenTarget) -> str:
  """Returns the command that trains a chosen target from the meta-state of the run, in a folder beside the run's."""
  named = workdir if workdir.name not in ("", "..") else workdir.resolve()
  return shlex.join([
      "python", "-m", "metamix_jax.main", f"--config={os.path.relpath(OF_RUN)}:{workdir}",
      f"--workdir={named.with_name(f'{named.name}_{chosen.name}')}",
      f"--config.arch.target_gbops={chosen.result.target_gbops!r}", "--config.arch.train_targets=None",
      f"--config.bits_from={_bits_file(workdir, chosen)}", f"--config.meta_state_from={workdir}"])


def _no_losses(run):
  """Returns losses of 0 nats in the place of those that are not measured yet."""
  if any(layer.candidate_weight_bits for layer in run.layers):
    raise UserError("--by is sensitivity, and config.quantization.candidate_weight_bits is not None; sensitivity is "
                    "measured only where bits of activations alone were searched.")
  return {layer.name: [0.0] * len(layer.candidate_bits) for layer in run.layers if layer.searched}


def _load(workdir: pathlib.Path) -> tuple["TrainingContext", "MetaState"]:
  """Returns the context and the meta-state of a run."""
  # Here, because JAX and TensorFlow take seconds to load.
  from metamix_jax.training.saved_search import load_meta_state, open_run

  context = open_run(workdir)
  return context, load_meta_state(context, workdir)


def _measure_losses(context, meta, workdir):
  """Measures the sensitivity of a run, or reads it from the file of an earlier start."""
  from metamix_jax.training.sensitivity import measure_sensitivity

  return measure_sensitivity(context, meta, workdir, load_config(SETTINGS).judging_batches)


def _bits_file(workdir, chosen):
  return workdir / f"selected_bits_{chosen.name}.json"


def _words(chosen):
  """Says where the bits come from."""
  if not chosen.searches:
    return "chosen by sensitivity" + "".join(f", {limit}" for limit in chosen.result.limits)
  return "chosen from the search for " + " and ".join(
      f"{format_target(target)}" + (f" ({weight:.0%})" if weight < 1 else "")
      for target, weight in chosen.searches.items()) + "".join(f", {limit}" for limit in chosen.result.limits)


def _evaluate(context, meta, results: Sequence[ChosenTarget]) -> Iterator[ChosenTarget]:
  """Yields the targets with their top-1 straight from the meta-state."""
  from metamix_jax.training.evaluation import evaluate_bits

  for chosen in results:
    top1 = evaluate_bits(context, meta, chosen.result.bits)
    yield dataclasses.replace(chosen, result=dataclasses.replace(chosen.result, meta_state_top1=top1))


if __name__ == "__main__":
  flags.mark_flag_as_required("target")
  app.run(main, flags_parser=flags_parser("choose"))
