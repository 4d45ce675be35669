#!/usr/bin/env python
"""Chooses bits for targets that a finished search did not have, and adds them to the report of the run.

  python scripts/choose.py runs/curve --target=0.03
  python scripts/choose.py runs/curve --target=0.022 --target=0.027 --target=0.034
  python scripts/choose.py runs/curve --target=0.03 --at_most=peak_activation_bytes=600 --at_most=phone.csv=1.9

The bits follow from the saved alphas of the searched targets (docs/targets.md says how), in a moment. Their accuracy is
evaluated straight from the meta-state, as that of the searched targets was. Each target is written to
DIR/selected_bits_TARGET.json and DIR/report/chosen_targets.json, and the page is made again. A command is printed for
each one, which trains it.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import math
import os
import pathlib
import shlex

from absl import app, flags
from absl import logging as absl_logging

from metamix_jax.command_line import exit_on_user_error, flags_parser, folder_of_run
from metamix_jax.config import check_target
from metamix_jax.errors import UserError
from metamix_jax.method.bops import LayerCost, attainable_range, complete_bits, cost_name, cost_unit, gbops
from metamix_jax.method.costs import peak_activation_bytes
from metamix_jax.method.limits import Limit, select_within_limits
from metamix_jax.method.selection import (
    alpha_for_target,
    most_probable_bits,
    select_within_target,
    weights_of_searches,
)
from metamix_jax.records import folder_lock
from metamix_jax.records.alpha import read_alpha
from metamix_jax.records.chosen_targets import ChosenTarget, KeptLimit, write_chosen_target
from metamix_jax.records.cost_tables import check_costs, with_costs
from metamix_jax.records.names import format_target
from metamix_jax.records.progress import log_to_terminal
from metamix_jax.records.results import TargetResult
from metamix_jax.records.selected_bits import write_selected_bits
from metamix_jax.records.workdir import check_data, load_config_of_run
from metamix_jax.reporting import page, saved_run, tables

OF_RUN = pathlib.Path(__file__).parents[1] / "configs" / "of_run.py"
_AT_MOST = flags.DEFINE_multi_string(
    "at_most", [], "COST=VALUE, a further limit: COST is bops, activation_bytes, peak_activation_bytes or a CSV file.")
PEAK = "peak_activation_bytes"
_TARGETS = flags.DEFINE_multi_float(
    "target", None, "Cost of one image, in GBOPs or the unit of config.arch.cost; may be given several times.")


@exit_on_user_error("choose")
def main(argv):
  """Chooses, evaluates and reports; a UserError becomes one sentence and status 2."""
  workdir = folder_of_run(argv)
  run = saved_run.read(workdir)
  results = settle(run, sorted(_TARGETS.value), read_limits(run.layers, _AT_MOST.value))
  absl_logging.set_verbosity(absl_logging.FATAL)
  log_to_terminal()
  with folder_lock.hold(workdir):
    for chosen in _evaluate(workdir, results):
      write_selected_bits(_bits_file(workdir, chosen), chosen.result.bits)
      write_chosen_target(workdir, chosen, run.layers, run.config["arch.target_tolerance"])
    written = page.write(workdir)
  print("\n".join(tables.format_curve(saved_run.read(workdir))))
  for chosen in results:
    name = format_target(chosen.result.target_gbops)
    print(f"\nTo train {name} {cost_unit(run.layers)}, {_words(chosen)}:\n  {training_command(workdir, chosen)}")
  print(f"\nWritten: {', '.join(map(str, (written, *(_bits_file(workdir, chosen) for chosen in results))))}")


@dataclasses.dataclass(frozen=True)
class Limits:
  """Holds the further limits of --at_most.

  Attributes:
    sums: limits on the cost of all layers together.
    peak_bytes: the most bytes that the input of one layer may have; infinite for no such limit.
  """

  sums: tuple[Limit, ...] = ()
  peak_bytes: float = math.inf

  def kept_by(self, layers: Sequence[LayerCost], bits: Mapping[str, int]) -> tuple[KeptLimit, ...]:
    """Returns each limit with the cost of bits of every layer."""
    kept = [
        KeptLimit(cost_name(limit.layers), cost_unit(limit.layers), limit.most, gbops(limit.layers, bits))
        for limit in self.sums]
    if self.peak_bytes < math.inf:
      kept.append(KeptLimit("peak activation bytes", "bytes", self.peak_bytes, peak_activation_bytes(layers, bits)))
    return tuple(kept)


def read_limits(layers: Sequence[LayerCost], words: Sequence[str]) -> Limits:
  """Reads the values of --at_most, "COST=VALUE"; raises UserError for a wrong one."""
  sums, peak_bytes = [], math.inf
  for text in words:
    cost, _, value = text.rpartition("=")
    try:
      most = float(value)
    except ValueError:
      most = math.nan
    if not cost or not 0 < most < math.inf:
      raise UserError(f"--at_most is {text!r}; it must be COST=VALUE, with a finite number above 0.")
    if cost == PEAK:
      peak_bytes = min(peak_bytes, most)
    else:
      plain = [dataclasses.replace(layer, cost=None) for layer in layers]
      sums.append(Limit(with_costs(cost, plain, "--at_most"), most))
  return Limits(tuple(sums), peak_bytes)


def settle(run: saved_run.SavedRun, targets: Sequence[float], limits: Limits = Limits()) -> list[ChosenTarget]:
  """Selects bits for targets from the saved alphas of a run; nothing is evaluated yet.

  Raises:
    UserError: a target was searched (and there are no further limits), is given twice or cannot be reached, no
      assignment keeps all limits, or the search is not finished.
  """
  alpha, tolerance, layers = read_alpha(run.folder, run.layers), run.config["arch.target_tolerance"], run.layers
  searched, chosen = set() if limits != Limits() else {format_target(target) for target in run.targets}, []
  for target in targets:
    name = format_target(target)
    if name in searched:
      raise UserError(
          f"--target is {name}, which the run in {run.folder} searched, or which is given twice; allowed are other "
          "targets.")
    searched.add(name)
    check_target(target, attainable_range(layers), cost_unit(layers), "--target")
    served = alpha_for_target(alpha, target)
    bits = _select(layers, served, target, tolerance, limits)
    chosen.append(ChosenTarget(
        TargetResult(target, layers, tolerance, bits, most_probable_bits(layers, served)),
        weights_of_searches(alpha, target), limits.kept_by(layers, complete_bits(layers, bits))))
  return chosen


def _select(layers, alpha, target, tolerance, limits):
  """Returns the most probable bits within a target and further limits."""
  if limits == Limits():
    return select_within_target(layers, alpha, target, tolerance)
  settled = select_within_limits(layers, alpha, target, tolerance, limits.sums, limits.peak_bytes)
  if settled is None:
    alone = "; ".join(
        f"{cost_name(limit.layers)} {attainable_range(limit.layers)[0]:.6g} of {limit.most:.6g} "
        f"{cost_unit(limit.layers)}" for limit in (Limit(tuple(layers), target), *limits.sums))
    raise UserError(
        f"no assignment of bits keeps --target={format_target(target)} and every --at_most; the least that each cost "
        f"can be alone is {alone}.")
  return settled.bits


def training_command(workdir: pathlib.Path, chosen: ChosenTarget) -> str:
  """Returns the command that trains a chosen target from the meta-state of the run, in a folder beside the run's."""
  named = workdir if workdir.name not in ("", "..") else workdir.resolve()
  return shlex.join([
      "python", "-m", "metamix_jax.main", f"--config={os.path.relpath(OF_RUN)}:{workdir}",
      f"--workdir={named.with_name(f'{named.name}_{chosen.name}')}",
      f"--config.arch.target_gbops={chosen.result.target_gbops!r}", "--config.arch.train_targets=None",
      f"--config.bits_from={_bits_file(workdir, chosen)}", f"--config.meta_state_from={workdir}"])


def _bits_file(workdir, chosen):
  return workdir / f"selected_bits_{chosen.name}.json"


def _words(chosen):
  """Says from which searches the bits come."""
  return "chosen from the search for " + " and ".join(
      f"{format_target(target)}" + (f" ({weight:.0%})" if weight < 1 else "")
      for target, weight in chosen.searches.items()) + "".join(f", {limit}" for limit in chosen.limits)


def _evaluate(workdir: pathlib.Path, results: Sequence[ChosenTarget]) -> Iterator[ChosenTarget]:
  """Yields the targets with their top-1 straight from the meta-state."""
  # Here, because JAX and TensorFlow take seconds to load.
  from metamix_jax.training.context import prepare
  from metamix_jax.training.evaluation import evaluate_bits
  from metamix_jax.training.saved_search import load_meta_state

  context = prepare(load_config_of_run(workdir))
  check_data(workdir, context.data.description)
  check_costs(workdir, context.network.layers)
  meta = load_meta_state(context, workdir)
  for chosen in results:
    top1 = evaluate_bits(context, meta, chosen.result.bits)
    yield dataclasses.replace(chosen, result=dataclasses.replace(chosen.result, meta_state_top1=top1))


if __name__ == "__main__":
  flags.mark_flag_as_required("target")
  app.run(main, flags_parser=flags_parser("choose"))
