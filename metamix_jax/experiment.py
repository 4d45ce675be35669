"""One run in a folder: its phases in order, each computed or restored, and its summary."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import json
import logging
import pathlib
from typing import Any

import jax
import numpy as np
import optax

from metamix_jax.config import LABELS, RANDOM_WEIGHTS, STUDENT
from metamix_jax.errors import UserError
from metamix_jax.method.bops import LayerCost, complete_bits, cost_unit
from metamix_jax.method.precision import FULL_PRECISION, assigned_precision
from metamix_jax.method.selection import most_probable_bits
from metamix_jax.models import pretrained
from metamix_jax.records import files, multihost
from metamix_jax.records.alpha import with_alpha
from metamix_jax.records.clock import Clock
from metamix_jax.records.interruption import StopRequest
from metamix_jax.records.names import name_for_target, targets, trained_targets
from metamix_jax.records.paths import local_folder
from metamix_jax.records.results import (
    FULL_PRECISION_TOP1,
    TOP1_OF_STAGE,
    ActivationStability,
    BitSelection,
    MetaEvaluation,
    TargetResult,
    parse_results,
)
from metamix_jax.records.selected_bits import read_selected_bits, write_selected_bits
from metamix_jax.records.summary import describe_network, summarize
from metamix_jax.records.workdir import check_workdir, hold_workdir
from metamix_jax.training import phases
from metamix_jax.training.context import TrainingContext
from metamix_jax.training.evaluation import evaluate, evaluate_bits, evaluate_uniform_bits
from metamix_jax.training.fingerprint import fingerprint
from metamix_jax.training.input_ranges import check_input_ranges
from metamix_jax.training.loop import Saving
from metamix_jax.training.run_phases import RunPhases
from metamix_jax.training.saved_search import check_run, load_full_precision, load_meta_state
from metamix_jax.training.stability import measure_stability
from metamix_jax.training.state import MetaState, Teacher, create_meta_state

logger = logging.getLogger("metamix_jax")

def run(context: TrainingContext, workdir: pathlib.Path, stop_request: StopRequest | None = None) -> dict[str, Any]:
  """Runs all phases, or continues the run in the folder.

  Args:
    context: from training.context.prepare; a fork may have replaced parts of it (dataclasses.replace).
    workdir: DIR.
    stop_request: read after every step and phase; None: the run is never asked to stop.

  Returns:
    The summary, as in DIR/report/summary.json (docs/metrics.md).

  Raises:
    UserError: before any compilation, the folder is a URL, is in use by another process, or belongs to another config
      or other data; later, an image cannot be decoded, a loss is not finite, or a file cannot be written.
    Interrupted: the run was asked to stop, and everything is saved.
  """
  workdir = local_folder(workdir)
  with hold_workdir(workdir):
    return _run(context, workdir, stop_request or StopRequest())


def _run(context, workdir, stop_request):
  """Does what `run` says, in a folder that no other process works on."""
  config, layers = context.config, context.network.layers
  check_workdir(config, workdir)
  check_run(context, workdir)
  with multihost.failing_together():
    if multihost.is_lead_process():
      files.write_json(
          workdir / "network.json", describe_network(config, layers, context.quantizer, context.limits.sums))
      for name in ("metrics.jsonl", "report/summary.json", "report/report.html"):  # Written late, looked at first.
        files.check_writable(workdir / name)
  run_phases = RunPhases(context, workdir, stop_request)
  saving = run_phases.saving

  meta, results = run_phases.run(
      "pretraining", phases.create_student(context), functools.partial(_pretrain, context, saving))
  full_precision_top1 = results[FULL_PRECISION_TOP1]
  logger.info("%s %.2f", FULL_PRECISION_TOP1, full_precision_top1)
  teacher = create_teacher(context, meta)

  meta, results = run_phases.run(
      "bit_selection", phases.start_step_sizes(context, meta),
      functools.partial(_select_bits, context, teacher, saving))
  selection = parse_results(
      run_phases.results_file("bit_selection"), BitSelection.from_json, results, layers, config.arch.target_tolerance)
  if config.bits_from is not None:
    _check_given_bits(config.bits_from, layers, selection)
  for target in selection.targets:
    with multihost.failing_together():
      if multihost.is_lead_process():
        name = name_for_target("selected_bits", target.target_gbops, targets(config))
        write_selected_bits(workdir / f"{name}.json", target.bits)
    logger.info("selected %.6f %s, target %.6f", target.gbops, cost_unit(layers), target.target_gbops)

  meta, results = run_phases.run(
      "meta_evaluation", meta, functools.partial(_evaluate_meta_state, context, selection))
  meta_evaluation = parse_results(
      run_phases.results_file("meta_evaluation"), MetaEvaluation.from_json, results, layers, targets(config))
  # Weight training of every target starts from this state, and its first step takes over the buffers on the devices.
  meta = on_host(meta.without_optimizer())
  fingerprints, reached = {"bit_selection": fingerprint(meta, {})}, []
  for target in selection.targets:
    target = dataclasses.replace(target, meta_state_top1=meta_evaluation.targets[target.target_gbops])
    # The summary keeps what an earlier start trained.
    if target.target_gbops in trained_targets(config) or run_phases.is_finished(
        name_for_target("stage_b", target.target_gbops, targets(config))):
      target, trained = train_target(context, run_phases, meta, target, teacher)
      fingerprints[name_for_target("stage_b", target.target_gbops, targets(config))] = fingerprint(trained, target.bits)
    reached.append(target)

  summary = summarize(
      config, full_precision_top1, dataclasses.replace(selection, targets=tuple(reached)), meta_evaluation.uniform,
      run_phases.seconds, max(multihost.total(context.data.num_skipped), _skipped_before(workdir)), run_phases.best,
      fingerprints)
  with multihost.failing_together():
    if multihost.is_lead_process():
      files.write_json(workdir / "report" / "summary.json", summary)
  return summary


def _skipped_before(workdir: pathlib.Path) -> int:
  """Returns the records that an earlier start skipped: one that only restores phases reads none."""
  try:
    return int(json.loads((workdir / "report" / "summary.json").read_text(encoding="utf-8"))["skipped_records"])
  except (OSError, ValueError, KeyError, TypeError):  # It is written anew.
    return 0


def _pretrain(context: TrainingContext, saving: Saving, meta: MetaState, clock: Clock):
  """Computes the first phase: reads the full-precision network from another run or a file, trains it, or both."""
  config, best = context.config, None
  if config.meta_state_from is not None:
    loaded = load_full_precision(context, pathlib.Path(config.meta_state_from))
    meta = meta.replace(weights=loaded.weights, batch_stats=loaded.batch_stats)
  elif config.pretraining.weights is not None:
    like = {"weights": meta.weights, "batch_stats": meta.batch_stats}
    fresh = context.network.layers[-1].name if config.pretraining.new_classifier else None
    meta = meta.replace(**pretrained.load(config.pretraining.weights, config.network.name, like, fresh))
  if config.meta_state_from is None and config.pretraining.epochs > 0:
    meta, best = phases.pretrain(context, meta, saving, clock)
  return meta, {FULL_PRECISION_TOP1: evaluate(context, meta, FULL_PRECISION), "best": best}


def _select_bits(context: TrainingContext, teacher: Teacher | None, saving: Saving, meta: MetaState, clock: Clock):
  """Computes the second phase: the meta-state, trained or another run's, and bits, searched or from a file."""
  config = context.config
  if config.meta_state_from is None:
    check_input_ranges(context, meta)
  if config.bits_from is not None:
    return _take_given_bits(context, teacher, saving, meta, clock)
  archs, stability = phases.create_architectures(context), None
  if config.meta_state_from is not None:
    meta, archs = phases.search_bits(context, _with_saved_meta_state(context, meta), archs, teacher, saving, clock)
  else:
    before = measure_stability(context, meta)
    meta, archs = phases.select_bits(context, meta, archs, teacher, saving, clock)
    stability = ActivationStability(before, measure_stability(context, meta))
  alpha = {name: np.asarray(values) for name, values in archs.alpha.items()}
  selected = []
  for index, target_gbops in enumerate(targets(config)):
    of_target = {name: values[index] for name, values in alpha.items()}
    bits = context.limits.select(context.network.layers, of_target, target_gbops, config.arch.target_tolerance)
    selected.append(_selection(context, target_gbops, bits, most_probable_bits(context.network.layers, of_target)))
  return meta, with_alpha(BitSelection(tuple(selected), stability).to_json(), alpha)


def _selection(
    context: TrainingContext, target_gbops: float, bits: Mapping[str, int], most_probable: Mapping[str, int]
) -> TargetResult:
  """Returns the result of a target of which nothing but the bits is known."""
  layers = context.network.layers
  return TargetResult(
      target_gbops, layers, context.config.arch.target_tolerance, bits, most_probable,
      limits=context.limits.kept_by(layers, complete_bits(layers, bits)))


def _take_given_bits(context: TrainingContext, teacher: Teacher | None, saving: Saving, meta: MetaState, clock: Clock):
  """Trains the meta-state, or loads it from config.meta_state_from, and reads the bits of config.bits_from."""
  config, layers, stability = context.config, context.network.layers, None
  if config.meta_state_from is not None:
    meta = _with_saved_meta_state(context, meta)
  else:
    before = measure_stability(context, meta)
    meta = phases.train_meta_state(context, meta, teacher, saving, clock)
    stability = ActivationStability(before, measure_stability(context, meta))
  bits = read_selected_bits(config.bits_from, layers)
  target_gbops, = targets(config)
  return meta, BitSelection((_selection(context, target_gbops, bits, bits),), stability).to_json()


def _check_given_bits(path: str, layers: Sequence[LayerCost], selection: BitSelection):
  """Raises UserError if the file of config.bits_from has other bits than the run that began with it."""
  given, taken = read_selected_bits(path, layers), selection.targets[0].bits
  for name, bits in given.items():
    if taken[name] != bits:
      raise UserError(
          f"config.bits_from={path} has {bits} bits for {name}, and this run began with {taken[name]}; bring the"
          " earlier file back, or choose another workdir.")


def _with_saved_meta_state(context: TrainingContext, meta: MetaState) -> MetaState:
  """Returns the state with the meta-state of the run in config.meta_state_from."""
  folder = context.config.meta_state_from
  loaded = load_meta_state(context, pathlib.Path(folder))
  logger.info("meta-state from %s", folder)
  return meta.replace(weights=loaded.weights, step_sizes=loaded.step_sizes, batch_stats=loaded.batch_stats)


def _evaluate_meta_state(context: TrainingContext, selection: BitSelection, meta: MetaState, clock: Clock):
  """Computes the third phase: top-1 straight from the meta-state, at uniform bit-widths and at the selected bits."""
  del clock
  uniform = evaluate_uniform_bits(context, meta)
  selected = {target.target_gbops: evaluate_bits(context, meta, target.bits) for target in selection.targets}
  return meta, MetaEvaluation(uniform, selected).to_json()


def train_target(
    context: TrainingContext, run_phases: RunPhases, meta: MetaState, target: TargetResult, teacher: Teacher | None
) -> tuple[TargetResult, MetaState]:
  """Trains one target through both stages of M14, each computed or restored.

  Args:
    context: of the run.
    run_phases: of the run's folder.
    meta: the state to start from, with activation step sizes, as host arrays: buffers on the devices are donated.
    target: its bits are trained.
    teacher: makes the soft targets of the task loss (M9); None: labels.

  Returns:
    The target with the top-1s after both stages, and the state after stage B.

  Raises:
    Interrupted: the run was asked to stop, and everything is saved.
    UserError: a loss is not finite, or a file cannot be written.
  """
  for stage, field in TOP1_OF_STAGE.items():
    name = name_for_target(stage, target.target_gbops, targets(context.config))
    meta = meta.with_weight_step_sizes() if stage == "stage_b" else meta.without_weight_step_sizes()
    meta, results = run_phases.run(
        name, context.replicate(meta),
        functools.partial(_train_weights, context, stage, name, field, target.bits, teacher, run_phases.saving))
    target = dataclasses.replace(target, **{field: results[field]})
    logger.info("%s: %s %.2f", name, field, results[field])
  return target, meta


def _train_weights(
    context: TrainingContext, stage: str, name: str, field: str, bits: Mapping[str, int], teacher: Teacher | None,
    saving: Saving, meta: MetaState, clock: Clock):
  """Computes one stage of M14, and its top-1 at the end."""
  meta, best = phases.train_weights(context, stage, meta, bits, teacher, saving, clock, name)
  return meta, {field: evaluate(context, meta, assigned_precision(context.network.layers, bits)), "best": best}


def create_teacher(context: TrainingContext, student: MetaState) -> Teacher | None:
  """Creates the teacher that config.teacher names (M9).

  Args:
    context: of the run.
    student: the full-precision network after pretraining.

  Returns:
    The teacher, replicated over the devices; None if the targets are labels.

  Raises:
    UserError: the file of weights does not fit the teacher.
  """
  config = context.config.teacher
  if config.name == LABELS:
    return None
  if config.name == STUDENT:
    weights, batch_stats = on_host((student.weights, student.batch_stats))  # The next step takes over its arrays.
    return context.replicate(Teacher(weights, batch_stats, context.network, config.dtype))
  network = context.teacher_network
  if network is None:
    raise ValueError(f"the context has no network for the teacher {config.name!r}.")
  start = create_meta_state(network, optax.identity(), context.data.image_shape, context.config.seed)
  variables = {"weights": start.weights, "batch_stats": start.batch_stats}
  if config.weights != RANDOM_WEIGHTS:
    variables = pretrained.load(config.weights, config.name, variables)
  return context.replicate(Teacher(network=network, dtype=config.dtype, **variables))


def on_host(tree: Any) -> Any:
  """Copies a tree to the host; on a CPU, jax.device_get alone shows buffers that the next step overwrites."""
  return jax.tree.map(np.array, jax.device_get(tree))
