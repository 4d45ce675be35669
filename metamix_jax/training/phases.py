"""M12-M14: the training phases of a run, each a composition of steps from steps.py that loop.train repeats."""

from collections.abc import Mapping
import dataclasses

import jax
import jax.numpy as jnp

from metamix_jax.method.precision import FULL_PRECISION, assigned_precision
from metamix_jax.records.clock import Clock
from metamix_jax.records.kept_targets import TopTargets
from metamix_jax.records.names import TRAINING_PHASES, targets
from metamix_jax.records.paths import local_path
from metamix_jax.training.alternation import search_alone
from metamix_jax.training.context import TrainingContext, penalty_weights
from metamix_jax.training.evaluation import evaluate
from metamix_jax.training.loop import Phase, Saving, train
from metamix_jax.training.optimizers import cosine_schedule
from metamix_jax.training.search_limits import create_search_limits
from metamix_jax.training.state import ArchState, MetaState, Teacher, create_arch_states, create_meta_state
from metamix_jax.training.targets import KeptTeacherTargets, KeptTopTargets, LabelTargets, TeacherTargets

Best = dict[str, float] | None


def create_student(context: TrainingContext) -> MetaState:
  """Creates a full-precision network at its random start, with the optimiser of pretraining."""
  optimizer = context.weight_optimizer(_cosine(context, "pretraining"))
  return create_meta_state(context.network, optimizer, context.data.image_shape, context.config.seed)


def create_architectures(context: TrainingContext) -> ArchState:
  """Creates alpha of each target at its start (M5), stacked on a leading axis."""
  arch = context.config.arch
  return create_arch_states(
      context.network, context.arch_optimizer(_alpha_schedule(context)), seed=context.config.seed,
      initial_std=arch.initial_std, targets_gbops=targets(context.config),
      penalty_weights=penalty_weights(context.config),
      limits=create_search_limits(context.network.layers, context.limits, arch.multiplier_learning_rate))


def start_step_sizes(context: TrainingContext, meta: MetaState) -> MetaState:
  """Returns the meta-state with activation step sizes (M4) from one full-precision pass over the first batch."""
  batch, bare = next(context.place(context.data.train_epoch(0))), meta.without_optimizer()
  return meta.with_activation_step_sizes(jax.block_until_ready(context.programs.calibration_step(bare, batch)))


def pretrain(
    context: TrainingContext, meta: MetaState, saving: Saving | None = None, clock: Clock | None = None
) -> tuple[MetaState, Best]:
  """Trains the full-precision network on labels; afterwards it can serve as the teacher.

  Args:
    context: of the run.
    meta: from `create_student`; its buffers are donated, so do not use it again.
    saving: where the steps are saved; None: nowhere.
    clock: of the phase; None: a new one.


  Returns:
    The trained network, and {"step", "top1"} of the best step that was evaluated, or None.
  """
  return _train_at_precision(context, Phase("pretraining", "pretraining"), meta, FULL_PRECISION, None, saving, clock)


def select_bits(
    context: TrainingContext, meta: MetaState, archs: ArchState, teacher: Teacher | None, saving: Saving | None = None,
    clock: Clock | None = None,
) -> tuple[MetaState, ArchState]:
  """M12 [C]: alternates a bit-meta step and a bit-search step on the same batch, after bit-meta-only epochs.

  One meta-state serves every target: each of the K states of `archs` takes its own bit-search step. The teacher is
  evaluated once a batch. The weight side trains at a constant learning rate. The steps on a batch of the search are
  context.alternation.

  Args:
    context: of the run.
    meta: with activation step sizes; its buffers are donated, so do not use it again.
    archs: alpha of K targets, stacked on a leading axis [K].
    teacher: makes the soft targets of the task loss (M9); None: labels.
    saving: where the steps are saved; None: nowhere.
    clock: of the phase; None: a new one.

  Returns:
    The meta-state and the architecture states after the last step.
  """
  config = context.config.bit_selection
  alpha_schedule = _alpha_schedule(context)

  def learning_rates(step):
    searched = step - config.meta_only_epochs * context.data.steps_per_epoch
    rates = {"learning_rate": config.learning_rate}
    return rates if searched < 0 else rates | {"alpha_learning_rate": alpha_schedule(searched)}

  def step(state, epoch, batch):
    meta, archs = state["meta"], state["arch"]
    if epoch < config.meta_only_epochs:
      meta, metrics = context.programs.bit_meta_step(meta, batch)
    else:
      meta, archs, metrics = context.alternation(context.programs, meta, archs, batch)
    return {"meta": meta, "arch": archs}, metrics

  start = {"meta": _for_bit_meta_steps(context, meta), "arch": archs}
  state, _ = train(
      context, Phase("bit_selection", "bit_selection", learning_rates), start, _targets_of(context, teacher), step,
      saving=saving, clock=clock)
  return state["meta"], state["arch"]


def search_bits(
    context: TrainingContext, meta: MetaState, archs: ArchState, teacher: Teacher | None, saving: Saving | None = None,
    clock: Clock | None = None,
) -> tuple[MetaState, ArchState]:
  """Takes the bit-search steps (M11) of a bit selection, and no bit-meta steps, on a finished meta-state [A].

  The batches are those that `select_bits` searches on, in the epochs after the bit-meta-only ones. The steps on a batch
  are alternation.search_alone, whatever context.alternation is.

  Args:
    context: of the run.
    meta: the meta-state of a finished bit selection; it does not change.
    archs: alpha of K targets, stacked on a leading axis [K].
    teacher: makes the soft targets of the task loss (M9); None: labels.
    saving: where the steps are saved; None: nowhere.
    clock: of the phase; None: a new one.

  Returns:
    The meta-state without an optimiser, and the architecture states after the last step.
  """
  skipped_epochs = context.config.bit_selection.meta_only_epochs
  first_step, alpha_schedule = skipped_epochs * context.data.steps_per_epoch, _alpha_schedule(context)
  meta = meta.without_optimizer().replace(
      step=jnp.int32(first_step), bad_step=jnp.zeros((), jnp.int32),
      phase=jnp.int32(TRAINING_PHASES.index("bit_selection")))

  def step(state, epoch, batch):
    del epoch
    meta, archs, metrics = search_alone(context.programs, state["meta"], state["arch"], batch)
    return {"meta": meta, "arch": archs}, metrics

  phase = Phase(
      "bit_selection", "bit_selection", lambda step: {"alpha_learning_rate": alpha_schedule(step - first_step)},
      skipped_epochs=skipped_epochs)
  state, _ = train(
      context, phase, {"meta": meta, "arch": archs}, _targets_of(context, teacher), step, saving=saving, clock=clock)
  return state["meta"], state["arch"]


def train_meta_state(
    context: TrainingContext, meta: MetaState, teacher: Teacher | None, saving: Saving | None = None,
    clock: Clock | None = None,
) -> MetaState:
  """Takes the bit-meta steps (M10) of a bit selection, and no bit-search steps, for bits that are given.

  The search never changes a meta-state, so this one equals the meta-state of `select_bits` bit for bit.

  Args:
    context: of the run.
    meta: with activation step sizes; its buffers are donated, so do not use it again.
    teacher: makes the soft targets of the task loss (M9); None: labels.
    saving: where the steps are saved; None: nowhere.
    clock: of the phase; None: a new one.

  Returns:
    The meta-state after the last step.
  """
  learning_rate = context.config.bit_selection.learning_rate

  def step(state, epoch, batch):
    del epoch
    meta, metrics = context.programs.bit_meta_step(state["meta"], batch)
    return {"meta": meta}, metrics

  phase = Phase("bit_selection", "bit_selection", lambda step: {"learning_rate": learning_rate})
  state, _ = train(
      context, phase, {"meta": _for_bit_meta_steps(context, meta)}, _targets_of(context, teacher), step, saving=saving,
      clock=clock)
  return state["meta"]


def train_weights(
    context: TrainingContext, stage: str, meta: MetaState, bits: Mapping[str, int], teacher: Teacher | None,
    saving: Saving | None = None, clock: Clock | None = None, name: str | None = None,
) -> tuple[MetaState, Best]:
  """M14 [C]: trains the weights at the selected bits: "stage_a" in full precision, "stage_b" quantised.

  Args:
    context: of the run.
    stage: "stage_a" or "stage_b", the section of the config with epochs and learning rate.
    meta: the state that the stage starts from; for stage B with weight step sizes (MetaState.with_weight_step_sizes).
    bits: bits of each searched layer, by layer name.
    teacher: makes the soft targets of the task loss (M9); None: labels.
    saving: where the steps are saved; None: nowhere.
    clock: of the phase; None: a new one.
    name: name of the phase; None: `stage`.

  Returns:
    The trained network, and {"step", "top1"} of the best step that was evaluated, or None.
  """
  precision = context.replicate(assigned_precision(context.network.layers, bits))
  meta = meta.with_optimizer(context.weight_optimizer(_cosine(context, stage)), TRAINING_PHASES.index(stage))
  return _train_at_precision(context, Phase(name or stage, stage, bits=bits), meta, precision, teacher, saving, clock)


def _for_bit_meta_steps(context, meta):
  """Returns a meta-state with the optimiser of the bit selection: Adam at a constant rate [C]."""
  optimizer = context.weight_optimizer(context.config.bit_selection.learning_rate)
  return meta.with_optimizer(optimizer, TRAINING_PHASES.index("bit_selection"))


def _train_at_precision(context, phase, meta, precision, teacher, saving, clock):
  learning_rate = _cosine(context, phase.section)

  def step(state, epoch, batch):
    del epoch
    meta, metrics = context.programs.weight_step(state["meta"], precision, batch)
    return {"meta": meta}, metrics

  state, best = train(
      context, dataclasses.replace(phase, learning_rates=lambda step: {"learning_rate": learning_rate(step)}),
      {"meta": meta}, _targets_of(context, teacher), step,
      evaluate=lambda state: evaluate(context, state["meta"], precision), saving=saving, clock=clock)
  return state["meta"], best


def _targets_of(context: TrainingContext, teacher: Teacher | None) -> LabelTargets:
  """Returns what adds the targets (M9) to batches: the teacher's probabilities, kept or not, or else one-hot labels."""
  if teacher is None:
    return LabelTargets(context)
  settings = context.config.teacher
  if settings.kept_targets is None:
    return TeacherTargets(context, teacher)
  root = local_path(settings.kept_targets, "config.teacher.kept_targets")
  max_bytes = settings.kept_gigabytes * 1e9
  if settings.kept_classes is None:
    return KeptTeacherTargets(context, teacher, root, max_bytes)
  return KeptTopTargets(context, teacher, root, max_bytes, TopTargets(settings.kept_classes))


def _cosine(context, section):
  """Returns the learning-rate schedule of a phase: a cosine to 0 [C]."""
  settings = context.config[section]
  return cosine_schedule(settings.learning_rate, 0.0, settings.epochs * context.data.steps_per_epoch)


def _alpha_schedule(context):
  """Returns the learning-rate schedule of alpha: a cosine over the search, constant if both ends are equal."""
  arch, selection = context.config.arch, context.config.bit_selection
  num_steps = (selection.epochs - selection.meta_only_epochs) * context.data.steps_per_epoch
  return cosine_schedule(arch.learning_rate, arch.final_learning_rate, num_steps)
