"""The loop that all training phases share: it continues from checkpoints, records, evaluates, saves and stops."""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import logging
import pathlib
from typing import Any, TypeAlias

import jax
import numpy as np

from metamix_jax.errors import UserError
from metamix_jax.records import multihost
from metamix_jax.records.checkpoints import StepCheckpoints
from metamix_jax.records.clock import Clock
from metamix_jax.records.interruption import Interrupted, StopRequest
from metamix_jax.records.metrics_file import MetricsFile
from metamix_jax.records.names import TRAINING_PHASES, format_target
from metamix_jax.records.progress import Progress
from metamix_jax.training import diagnosis
from metamix_jax.training.context import TrainingContext
from metamix_jax.training.parallel import StepsInFlight
from metamix_jax.training.recorder import Recorder
from metamix_jax.training.targets import LabelTargets

logger = logging.getLogger("metamix_jax")

# {"meta": MetaState}, and {"arch": ArchState} in the bit selection.
State: TypeAlias = dict[str, Any]
Batch: TypeAlias = dict[str, jax.Array]
Metrics: TypeAlias = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Phase:
  """Describes one training phase.

  Attributes:
    name: name in log lines, records and checkpoints, such as "stage_a_0.025".
    section: section of the config with its epochs: one of TRAINING_PHASES.
    learning_rates: (number of steps before) -> {name: learning rate}, for the records.
    bits: bits of each searched layer if the phase trains one assignment; None: every candidate is in use.
    skipped_epochs: epochs of the section that the phase leaves out at its start.
  """

  name: str
  section: str
  learning_rates: Callable[[int], Mapping[str, Any]] = lambda step: {}
  bits: Mapping[str, int] | None = None
  skipped_epochs: int = 0


@dataclasses.dataclass(frozen=True)
class Saving:
  """Holds where the phases of a run save their steps, and what may stop them.

  Attributes:
    folder: DIR/checkpoints.
    stop_request: read after every step.
    metrics: the file that records steps; None: this process records nothing.
  """

  folder: pathlib.Path
  stop_request: StopRequest
  metrics: MetricsFile | None = None


def train(
    context: TrainingContext, phase: Phase, state: State, targets: LabelTargets,
    step_function: Callable[[State, int, Batch], tuple[State, Metrics]], *,
    evaluate: Callable[[State], float] | None = None, saving: Saving | None = None, clock: Clock | None = None,
) -> tuple[State, dict[str, float] | None]:
  """Runs a training phase from its start, or from its newest checkpoint, to its end.

  After each step, in this order: print, record, evaluate, save, stop. A line is recorded before its step is saved, so
  no line up to a checkpoint is ever missing.

  Args:
    context: of the run.
    phase: name, section of the config and records of the phase.
    state: the state that the phase starts from; its buffers are donated, so do not use it again.
    targets: adds the targets to the batches (M9).
    step_function: (state, epoch of the phase, batch with targets) -> (state, scalar metrics).
    evaluate: state -> top-1 in percent, called every config.evaluate_every_epochs epochs; None: never.
    saving: where steps are saved and recorded; None: nowhere.
    clock: of the phase; None: a new one.

  Returns:
    The state after the last step, and {"step", "top1"} of the best step that was evaluated, or None.

  Raises:
    Interrupted: the run was asked to stop, and the state is saved.
    UserError: a loss or gradient was not finite (the sentence names phase, step and layer), an image cannot be decoded,
      or the state cannot be saved.
  """
  clock = clock or Clock()
  num_steps = context.config[phase.section].epochs * context.data.steps_per_epoch
  first_step, checkpoints, recorder = phase.skipped_epochs * context.data.steps_per_epoch, None, None
  if saving is not None:
    checkpoints = StepCheckpoints(
        saving.folder / "steps" / phase.name, phase.name, clock, max_to_keep=context.config.checkpoints.max_to_keep)
    state, saved_step = checkpoints.restore(state)
    first_step = max(first_step, saved_step)
    if saving.metrics is not None:
      recorder = Recorder(saving.metrics, context, phase.name, phase.learning_rates, phase.bits, clock)
      recorder.start(first_step)
  state = context.replicate(state)
  in_flight, metric_names, devices_idle = StepsInFlight(), None, False
  progress = Progress(
      phase.name, num_steps, context.config.batch_size, context.config.log_every_seconds, clock, first_step)
  try:
    for step, epoch, batch in clock.timed_batches(
        _batches(context, phase, first_step, num_steps, targets.read), in_flight.done):
      step_began = clock.seconds
      batch = clock.measure("targets", targets.add, batch) if devices_idle else targets.add(batch)
      state, metrics = step_function(state, epoch, batch)
      in_flight.add(metrics)
      compiled = metrics.keys() != metric_names
      if compiled:
        jax.block_until_ready(metrics)
        clock.leave_out(step_began)
        metric_names = metrics.keys()
      else:
        clock.count_step()

      devices_idle = progress.after_step(metrics, compiled)
      recorded = saving is not None and _is_due(context.config.metrics.every_steps, step, num_steps)
      # A look at a state waits for its step. All processes must look at the same steps, but print by their own clocks.
      if recorded or devices_idle and jax.process_count() == 1:
        _check_finite(context, phase, state)
      if recorder is not None:
        recorder.after_step(step, metrics)
        if recorded:
          recorder.record(step, state, metrics)

      top1 = None
      if evaluate is not None and _evaluation_is_due(context, step):
        in_flight.wait()
        with clock.paused():
          top1 = evaluate(state)
        logger.info("%s: top-1 %.2f after epoch %d", phase.name, top1, epoch + 1)
      if checkpoints is None:
        continue
      stop = _asked_to_stop(saving)
      if step % context.config.checkpoints.every_steps == 0 or stop or top1 is not None:
        _check_finite(context, phase, state)
        if recorder is not None and top1 is not None:
          recorder.record_top1(step, top1)
        in_flight.wait()
        with clock.paused():
          checkpoints.save(step, state, top1)
      if stop:
        checkpoints.close()
        raise Interrupted(f"stopped after step {step}/{num_steps} of {phase.name}")
  finally:
    progress.close()
  targets.close()
  in_flight.wait()
  _check_finite(context, phase, state)  # Of the steps since the last look.
  if checkpoints is None:
    return state, None
  checkpoints.close()
  return state, checkpoints.best


def _batches(
    context, phase, first_step, num_steps, read_targets=lambda batches, epoch, first_batch: batches
) -> Iterator[tuple[int, int, Batch]]:
  """Yields (step, epoch of the phase, batch on the devices) from the step after `first_step` on; steps count from 1."""
  step = first_step
  while step < num_steps:
    epoch, first_batch = divmod(step, context.data.steps_per_epoch)
    epoch_of_data = _epochs_before(context, phase) + epoch
    if context.config.data.repeat_epochs:
      epoch_of_data %= context.config.data.repeat_epochs
    batches = context.data.train_epoch(epoch_of_data, first_batch)
    for batch in context.place(read_targets(batches, epoch_of_data, first_batch)):
      step += 1
      yield step, epoch, batch


def _epochs_before(context, phase):
  """Returns the number of epochs of earlier phases; a run numbers its epochs, so each phase has other image orders."""
  earlier = TRAINING_PHASES[:TRAINING_PHASES.index(phase.section)]
  return sum(context.config[section].epochs for section in earlier)


def _is_due(every, step, num_steps):
  return every > 0 and (step % every == 0 or step == num_steps)


def _evaluation_is_due(context, step):
  epochs, rest = divmod(step, context.data.steps_per_epoch)
  every = context.config.evaluate_every_epochs
  return rest == 0 and every > 0 and epochs % every == 0


def _asked_to_stop(saving):
  return multihost.asked_to_stop() if jax.distributed.is_initialized() else saving.stop_request.requested


def _check_finite(context, phase, state):
  """Raises UserError if an update was skipped because its loss or gradient was not finite."""
  for name, part in state.items():
    bad_steps = np.ravel(part.bad_step)  # One for each target of an architecture state.
    if not bad_steps.any():
      continue
    bad_step, rate = int(bad_steps[bad_steps > 0].min()), f"{phase.section}.learning_rate"
    if name == "arch":  # It counts the steps of the search, which begins after the bit-meta-only epochs.
      bad_step += context.config.bit_selection.meta_only_epochs * context.data.steps_per_epoch
      rate = "arch.learning_rate"
    _, _, batch = next(_batches(context, phase, bad_step - 1, bad_step))
    meta = jax.device_get(state["meta"])  # Each process looks at its part of the batch, by itself.
    raise UserError(
        f"{phase.name}, step {bad_step}: the {_name_loss(name, part)} loss or its gradient"
        f" is not finite, first {diagnosis.first_not_finite(meta, batch)}; nothing after step"
        f" {bad_step - 1} was kept; lower config.{rate} or look at the data.")


def _name_loss(name, state):
  """Names the loss of a state; for an architecture state, also the targets whose loss is not finite."""
  if name != "arch":
    return "training"
  bad_targets = np.asarray(state.target_gbops)[np.asarray(state.bad_step) > 0]
  return f"bit-search (target {', '.join(map(format_target, bad_targets))})"
