"""M12-M14: the phases of a run as plain loops over the steps of steps.py."""

from collections.abc import Mapping
import itertools
from typing import Any

import jax

from metamix_jax.method.bops import uniform_bits, uniform_widths
from metamix_jax.method.precision import FULL_PRECISION, assigned_precision
from metamix_jax.records.names import targets
from metamix_jax.records.progress import show_bar
from metamix_jax.records.results import UniformResult
from metamix_jax.training.context import TrainingContext
from metamix_jax.training.loop import Loop, Saving
from metamix_jax.training.optimizers import arch_optimizer, cosine_schedule
from metamix_jax.training.parallel import fetch
from metamix_jax.training.state import ArchState, MetaState, Teacher, create_arch_states, create_meta_state


def create_student(context: TrainingContext) -> MetaState:
  """A fresh full-precision network with the optimiser of pretraining."""
  return create_meta_state(context.network, _phase_optimizer(context, "pretraining"), context.image_shape, context.config.seed)


def create_architectures(context: TrainingContext) -> ArchState:
  """alpha of each target at its start, stacked, with a learning rate that falls to its end."""
  arch = context.config.arch
  return create_arch_states(
      context.network, arch_optimizer(_alpha_learning_rate(context), arch.beta1, arch.beta2, arch.l2), seed=context.config.seed,
      deviation=arch.initial_deviation, targets_gbops=targets(context.config),
      relative_penalty_weight=arch.relative_penalty_weight)


def pretrain(context: TrainingContext, meta: MetaState, saving: Saving | None = None) -> MetaState:
  """Trains the full-precision network on labels; it serves as the teacher afterwards."""
  return _train_at_precision(context, "pretraining", meta, FULL_PRECISION, None, saving)


def start_step_sizes(context: TrainingContext, meta: MetaState) -> MetaState:
  """Starts the activation step sizes (M4) from one full-precision pass over the first batch."""
  batch = next(context.place(context.train_epoch(0)))
  return meta.with_activation_step_sizes(jax.block_until_ready(context.programs.calibration_step(meta, batch)))


def select_bits(
    context: TrainingContext, meta: MetaState, archs: ArchState, teacher: Teacher | None, saving: Saving | None = None
) -> tuple[MetaState, ArchState]:
  """M12 [C]: alternates a bit-meta step and a bit-search step on the same batch, after bit-meta-only epochs.

  One meta-state serves every target: the bit-search step is that of each of the K states of `archs`. The teacher is
  evaluated once a batch. Adam at a constant learning rate.
  """
  config = context.config.bit_selection
  alpha_learning_rate = _alpha_learning_rate(context)

  def learning_rates(step):
    searched = step - config.meta_only_epochs * context.steps_per_epoch
    rates = {"learning_rate": config.learning_rate}
    return rates if searched < 0 else rates | {"alpha_learning_rate": alpha_learning_rate(searched)}

  loop = Loop(context, "bit_selection", saving, learning_rates=learning_rates)
  state = loop.start({"meta": meta.with_optimizer(context.optimizer(config.learning_rate)), "arch": archs})
  for epoch, batch in loop.batches():
    batch = _with_targets(context, loop.progress, teacher, batch)
    meta, metrics = context.programs.bit_meta_step(state["meta"], batch)
    archs = state["arch"]
    if epoch >= config.meta_only_epochs:
      archs, search_metrics = context.programs.bit_search_steps(archs, meta, batch)
      metrics = metrics | {"gbops": search_metrics["gbops"], "search_loss": search_metrics["task_loss"]}
    state = {"meta": meta, "arch": archs}
    loop.after_step(state, metrics)
  loop.finish()
  return state["meta"], state["arch"]


def train_weights(
    context: TrainingContext, stage: str, meta: MetaState, bits: Mapping[str, int], teacher: Teacher | None,
    saving: Saving | None = None, phase: str | None = None,
) -> MetaState:
  """M14 [C]: weight training at the selected bits, "stage_a" with full-precision weights or "stage_b".

  Args:
    context: the context.
    stage: section of the config with epochs and learning rate.
    meta: what the stage starts from; for stage B with weight step sizes (MetaState.with_weight_step_sizes).
    bits: of each searched layer, by name.
    teacher: source of the targets; None: the labels.
    saving: where the steps are saved; None: nowhere.
    phase: name of the phase; None: that of the stage.
  """
  precision = assigned_precision(context.network.layers, bits)
  return _train_at_precision(
      context, stage, meta.with_optimizer(_phase_optimizer(context, stage)), precision, teacher, saving, phase, bits)


def evaluate(context: TrainingContext, meta: MetaState, precision: Any) -> float:
  """Top-1 in percent on the whole evaluation split, exactly: padding is masked."""
  meta = meta.without_optimizer()
  results = (
      context.programs.evaluation_step(meta, precision, batch) for batch in context.place(context.evaluation_batches()))
  totals = list(show_bar(fetch(results), "evaluation", context.num_evaluation_batches))
  correct, images = (sum(float(total[name]) for total in totals) for name in ("correct", "images"))
  return 100 * correct / images


def reestimate_batch_statistics(context: TrainingContext, meta: MetaState, precision: Any) -> MetaState:
  """A copy whose running statistics are the average moments of a few training batches at a precision [A]."""
  num_batches = min(context.config.reestimation_batches, context.steps_per_epoch)
  batches = itertools.islice(context.place(context.train_epoch(0)), num_batches)
  results = (context.programs.batch_moments_step(meta.without_optimizer(), precision, batch) for batch in batches)
  moments = list(show_bar(fetch(results), "batch statistics", num_batches))
  average = jax.tree.map(lambda *values: sum(values) / len(values), *moments)
  return meta.replace(batch_stats=context.replicate(average))


def evaluate_meta_state(context: TrainingContext, meta: MetaState) -> tuple[UniformResult, ...]:
  """Evaluates every uniform bit-width straight from the meta-state, with re-estimated and with shared statistics."""
  layers, results = context.network.layers, []
  for width in uniform_widths(layers):
    bits = uniform_bits(layers, width)
    top1 = evaluate_selected(context, meta, bits)
    results.append(UniformResult(width, layers, top1, evaluate(context, meta, assigned_precision(layers, bits))))
  return tuple(results)


def evaluate_selected(context: TrainingContext, meta: MetaState, bits: Mapping[str, int]) -> float:
  """Evaluates an assignment straight from the meta-state, statistics re-estimated for it; top-1 in percent."""
  precision = assigned_precision(context.network.layers, bits)
  return evaluate(context, reestimate_batch_statistics(context, meta, precision), precision)


def _train_at_precision(context, section, meta, precision, teacher, saving, phase=None, bits=None):
  learning_rate = _learning_rate(context, section)
  loop = Loop(
      context, section, saving, lambda state: evaluate(context, state["meta"], precision), phase,
      lambda step: {"learning_rate": learning_rate(step)}, bits)
  state = loop.start({"meta": meta})
  for _, batch in loop.batches():
    batch = _with_targets(context, loop.progress, teacher, batch)
    meta, metrics = context.programs.weight_step(state["meta"], precision, batch)
    state = {"meta": meta}
    loop.after_step(state, metrics)
  loop.finish()
  return state["meta"]


def _with_targets(context, progress, teacher, batch):
  """The batch with its targets (M9): the teacher's probabilities, or one-hot labels without a teacher."""
  if teacher is None:
    return context.programs.label_targets(context.num_classes, batch)
  return progress.part_of_step("teacher", lambda: context.programs.teacher_targets(teacher, batch))


def _phase_optimizer(context, phase):
  return context.optimizer(_learning_rate(context, phase))


def _learning_rate(context, phase):
  """A cosine to 0 over the phase [C]."""
  section = context.config[phase]
  return cosine_schedule(section.learning_rate, 0.0, section.epochs * context.steps_per_epoch)


def _alpha_learning_rate(context):
  """A cosine over the search."""
  arch, selection = context.config.arch, context.config.bit_selection
  num_steps = (selection.epochs - selection.meta_only_epochs) * context.steps_per_epoch
  return cosine_schedule(arch.learning_rate, arch.final_learning_rate, num_steps)
