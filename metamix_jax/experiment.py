"""One run from a config and a folder: checks, phases in order, the report."""

import dataclasses
import logging
import pathlib

import jax
import ml_collections
import numpy as np
import optax

from metamix_jax.config import LABELS, RANDOM_WEIGHTS, STUDENT
from metamix_jax.method import selection
from metamix_jax.method.precision import FULL_PRECISION, assigned_precision
from metamix_jax.models import pretrained
from metamix_jax.records import files, multihost
from metamix_jax.records.interruption import StopRequest
from metamix_jax.records.names import name_for_target, targets, trained_targets
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
from metamix_jax.records.workdir import check_workdir
from metamix_jax.training import phases, stability
from metamix_jax.training.context import TrainingContext, prepare
from metamix_jax.training.run_phases import RunPhases
from metamix_jax.training.state import MetaState, Teacher, create_meta_state

logger = logging.getLogger("metamix_jax")


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path, stop_request: StopRequest | None = None) -> dict:
  """All phases; returns the summary that DIR/report/summary.json holds. A run that is there already is continued.

  Args:
    config: a config.
    workdir: DIR.
    stop_request: asked after every step and phase; None: the run is never asked to stop.

  Raises:
    UserError: the config, the workdir or the bits_from file is wrong, before any compilation; later on, a record that
      cannot be decoded, a loss that is not finite, or a checkpoint that cannot be written.
    Interrupted: the run was asked to stop, and everything is saved.
  """
  context = prepare(config)
  check_workdir(config, workdir)
  run_phases = RunPhases(context, workdir, stop_request or StopRequest())
  saving, layers = run_phases.saving, context.network.layers
  if multihost.is_first():
    files.write_json(workdir / "network.json", describe_network(config, layers))

  def pretraining(meta):
    if config.pretraining.weights is None:
      meta = phases.pretrain(context, meta, saving)
    else:
      meta = meta.replace(**pretrained.load(config.pretraining.weights, config.network.name, pretrained.arrays(meta)))
    return meta, {FULL_PRECISION_TOP1: phases.evaluate(context, meta, FULL_PRECISION)}

  meta, evaluated = run_phases.run("pretraining", phases.create_student(context), pretraining)
  logger.info("full_precision_top1 %.2f", evaluated[FULL_PRECISION_TOP1])
  teacher = create_teacher(context, meta)

  tolerance = config.arch.target_tolerance

  def bit_selection(meta):
    if config.bits_from is not None:
      bits = read_selected_bits(config.bits_from, layers)
      target, = targets(config)
      return meta, BitSelection((TargetResult(target, layers, tolerance, bits, bits),)).to_json()
    before = stability.measure_stability(context, meta)
    meta, archs = phases.select_bits(context, meta, phases.create_architectures(context), teacher, saving)
    after = stability.measure_stability(context, meta)
    alpha = {name: np.asarray(values) for name, values in archs.alpha.items()}
    selections = selection.select_for_targets(layers, alpha, targets(config), tolerance)
    results = tuple(
        TargetResult(target, layers, tolerance, *bits) for target, bits in zip(targets(config), selections, strict=True))
    return meta, BitSelection(results, ActivationStability(before, after)).to_json()

  checkpoints = workdir / "checkpoints"
  meta, values = run_phases.run("bit_selection", phases.start_step_sizes(context, meta), bit_selection)
  selected = parse_results(
      checkpoints / "bit_selection.json", BitSelection.from_json, values, layers, tolerance)
  for result in selected.targets:
    if multihost.is_first():
      name = name_for_target("selected_bits", result.target_gbops, targets(config))
      write_selected_bits(workdir / f"{name}.json", result.bits)
    logger.info("selected %.6f GBOPs, target %.6f", result.gbops, result.target_gbops)

  def meta_evaluation(meta):
    return meta, MetaEvaluation(
        phases.evaluate_meta_state(context, meta),
        {result.target_gbops: phases.evaluate_selected(context, meta, result.bits) for result in selected.targets},
    ).to_json()

  meta, values = run_phases.run("meta_evaluation", meta, meta_evaluation)
  meta_state = parse_results(
      checkpoints / "meta_evaluation.json", MetaEvaluation.from_json, values, layers, targets(config))
  # The weight training of every target starts from it, and what is on the devices is donated to the first step.
  meta = _on_host(meta.without_optimizer())
  results = []
  for result in selected.targets:
    target = result.target_gbops
    result = dataclasses.replace(result, meta_state_top1=meta_state.targets[target])
    # What an earlier start trained stays in the summary.
    last_phase = name_for_target("stage_b", target, targets(config))
    if target in trained_targets(config) or run_phases.is_finished(last_phase):
      result = _train_weights(context, run_phases, meta, result, teacher)
    results.append(result)

  summary = summarize(
      config, evaluated[FULL_PRECISION_TOP1], dataclasses.replace(selected, targets=tuple(results)), meta_state.uniform,
      run_phases.seconds, multihost.total(len(context.skipped_records.names) if context.skipped_records else 0),
      run_phases.best)
  if multihost.is_first():
    files.write_json(workdir / "report" / "summary.json", summary)
  return summary


def _train_weights(context, run_phases, meta, result, teacher):
  """Both stages of M14 for one target, from the meta-state; the result with their top-1 in percent."""
  precision = assigned_precision(context.network.layers, result.bits)
  for stage, result_name in TOP1_OF_STAGE.items():
    phase = name_for_target(stage, result.target_gbops, targets(context.config))
    if stage == "stage_b":
      meta = meta.with_weight_step_sizes()

    def weight_training(meta, stage=stage, phase=phase, result_name=result_name):
      meta = phases.train_weights(context, stage, meta, result.bits, teacher, run_phases.saving, phase)
      return meta, {result_name: phases.evaluate(context, meta, precision)}

    meta, values = run_phases.run(phase, context.replicate(meta), weight_training)
    result = dataclasses.replace(result, **{result_name: values[result_name]})
    logger.info("%s: %s %.2f", phase, result_name, values[result_name])
  return result


def create_teacher(context: TrainingContext, student: MetaState) -> Teacher | None:
  """The source of soft targets that config.teacher names; None: labels (M9).

  Args:
    context: the context.
    student: the full-precision network after pretraining.

  Raises:
    UserError: the file of weights does not fit the teacher.
  """
  config = context.config.teacher
  if config.name == LABELS:
    return None
  if config.name == STUDENT:
    weights, batch_stats = _on_host((student.weights, student.batch_stats))  # Its own are donated to the next step.
    return context.replicate(Teacher(weights, batch_stats, context.network, config.dtype))
  start = create_meta_state(context.teacher_network, optax.identity(), context.image_shape, context.config.seed)
  variables = pretrained.arrays(start)
  if config.weights != RANDOM_WEIGHTS:
    variables = pretrained.load(config.weights, config.name, variables)
  return context.replicate(Teacher(network=context.teacher_network, dtype=config.dtype, **variables))


def _on_host(tree):
  """Copies: what jax.device_get shows on a CPU is overwritten by the step that an array is donated to."""
  return jax.tree.map(np.array, jax.device_get(tree))
