"""One run from a config and a folder: checks, phases in order, the report."""

import logging
import pathlib

import jax
import ml_collections
import numpy as np
import optax

from metamix_jax.config import LABELS, RANDOM_WEIGHTS, STUDENT
from metamix_jax.method import selection
from metamix_jax.method.bops import gbops
from metamix_jax.method.precision import FULL_PRECISION, assigned_precision
from metamix_jax.models import pretrained
from metamix_jax.records import files, multihost
from metamix_jax.records.interruption import StopRequest
from metamix_jax.records.names import format_target, named, targets, trained_targets
from metamix_jax.records.selected_bits import read_selected_bits, write_selected_bits
from metamix_jax.records.summary import describe_network, summarize
from metamix_jax.records.workdir import check_data, check_workdir
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
  check_data(workdir, context.data_description)
  run_phases = RunPhases(context, workdir, stop_request or StopRequest())
  saving, layers = run_phases.saving, context.network.layers
  if multihost.is_first():
    files.write_json(workdir / "network.json", describe_network(config, layers))

  def pretraining(meta):
    if config.pretraining.weights is None:
      meta = phases.pretrain(context, meta, saving)
    else:
      meta = meta.replace(**pretrained.load(config.pretraining.weights, config.network.name, pretrained.arrays(meta)))
    return meta, {"full_precision_top1": phases.evaluate(context, meta, FULL_PRECISION)}

  meta, evaluated = run_phases.run("pretraining", phases.create_student(context), pretraining)
  logger.info("full_precision_top1 %.2f", evaluated["full_precision_top1"])
  teacher = create_teacher(context, meta)

  def bit_selection(meta):
    if config.bits_from is not None:
      candidates = read_selected_bits(config.bits_from, layers)
      target, = targets(config)
      return meta, {"budgets": [{"target_gbops": target, "candidates": candidates, "most_probable": candidates}]}
    distances = {"before": stability.measure_stability(context, meta)}
    meta, archs = phases.select_bits(context, meta, phases.create_architectures(context), teacher, saving)
    distances["after"] = stability.measure_stability(context, meta)
    alpha = {name: np.asarray(values) for name, values in archs.alpha.items()}
    return meta, {
        "budgets": selection.select_for_targets(layers, alpha, targets(config), config.arch.target_tolerance),
        "activation_stability": distances}

  meta, selected = run_phases.run("bit_selection", phases.start_step_sizes(context, meta), bit_selection)
  budgets = selected["budgets"]
  for budget in budgets:
    target, candidates = budget["target_gbops"], budget["candidates"]
    if multihost.is_first():
      write_selected_bits(workdir / f"{named('selected_bits', config, target)}.json", layers, candidates)
    logger.info("selected %.6f GBOPs, target %.6f", gbops(layers, selection.bits_of(layers, candidates)), target)

  def meta_evaluation(meta):
    return meta, {
        "meta_state_top1": phases.evaluate_meta_state(context, meta),
        "selected_top1": {
            format_target(budget["target_gbops"]): phases.evaluate_selected(context, meta, budget["candidates"])
            for budget in budgets},
    }

  meta, results = run_phases.run("meta_evaluation", meta, meta_evaluation)
  evaluated["meta_state_top1"] = results["meta_state_top1"]
  # The weight training of every budget starts from it, and what is on the devices is donated to the first step.
  meta = _on_host(meta.without_optimizer())
  for budget in budgets:
    target = budget["target_gbops"]
    budget["selected_top1"] = results["selected_top1"][format_target(target)]
    budget |= {"stage_a_top1": None, "final_top1": None}
    # What an earlier start trained stays in the summary.
    if target in trained_targets(config) or run_phases.is_finished(named("stage_b", config, target)):
      budget |= _train_weights(context, run_phases, meta, budget, teacher)

  summary = summarize(
      config, layers, budgets, evaluated, run_phases.seconds,
      multihost.total(len(context.skipped_records.names) if context.skipped_records else 0), run_phases.best)
  if "activation_stability" in selected:  # Not there with bits_from.
    summary["activation_stability"] = selected["activation_stability"]
  if multihost.is_first():
    files.write_json(workdir / "report" / "summary.json", summary)
  return summary


def _train_weights(context, run_phases, meta, budget, teacher):
  """Both stages of M14 for one budget, from the meta-state; their top-1 in percent by name."""
  candidates, tops = budget["candidates"], {}
  precision = assigned_precision(context.network.layers, candidates)
  for stage, result_name in (("stage_a", "stage_a_top1"), ("stage_b", "final_top1")):
    phase = named(stage, context.config, budget["target_gbops"])
    if stage == "stage_b":
      meta = meta.with_weight_step_sizes()

    def weight_training(meta, stage=stage, phase=phase, result_name=result_name):
      meta = phases.train_weights(context, stage, meta, candidates, teacher, run_phases.saving, phase)
      return meta, {result_name: phases.evaluate(context, meta, precision)}

    meta, results = run_phases.run(phase, context.replicate(meta), weight_training)
    tops[result_name] = results[result_name]
    logger.info("%s: %s %.2f", phase, result_name, tops[result_name])
  return tops


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
