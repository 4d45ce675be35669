"""The loop that all training phases share: where it continues, when it saves, when it stops."""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import logging
import pathlib
from typing import Any

import jax
import numpy as np

from metamix_jax.errors import UserError
from metamix_jax.records.checkpoints import StepCheckpoints
from metamix_jax.records.interruption import Interrupted, StopRequest
from metamix_jax.records.metrics_file import MetricsFile
from metamix_jax.records.names import TRAINING_PHASES, format_target
from metamix_jax.records.progress import Progress
from metamix_jax.training import diagnosis
from metamix_jax.training.context import TrainingContext
from metamix_jax.training.parallel import StepsInFlight
from metamix_jax.training.recorder import Recorder

logger = logging.getLogger("metamix_jax")


@dataclasses.dataclass
class Saving:
  """Where the phases of a run save their steps, and what may stop them.

  Attributes:
    folder: DIR/checkpoints.
    stop_request: asked after every step.
    metrics: where steps are recorded; None: nowhere, or another process does.
    earlier_seconds: of each phase that was continued, up to the step where it was.
    best: {"step", "top1"} of each phase whose steps were evaluated.
  """

  folder: pathlib.Path
  stop_request: StopRequest
  metrics: MetricsFile | None = None
  earlier_seconds: dict[str, float] = dataclasses.field(default_factory=dict)
  best: dict[str, dict] = dataclasses.field(default_factory=dict)


class Loop:
  """One training phase, step by step.

  Usage: state = loop.start(state); for epoch, batch in loop.batches(): ...; loop.after_step(state, metrics);
  then loop.finish().

  Attributes:
    context: the context.
    phase: name of the phase.
    num_steps: of the whole phase.
    progress: prints its lines.
  """

  def __init__(
      self, context: TrainingContext, section: str, saving: Saving | None, evaluate: Callable[[Any], float] | None = None,
      phase: str | None = None, learning_rates: Callable[[int], Mapping[str, Any]] = lambda step: {},
      candidates: Mapping[str, int] | None = None,
  ):
    """A phase at its start.

    Args:
      context: the context.
      section: of the config, one of TRAINING_PHASES.
      saving: where the steps are saved and recorded; None: nowhere.
      evaluate: the state's top-1 in percent, asked for every config.evaluate_every_epochs epochs; None: never.
      phase: name of the phase; None: that of the section.
      learning_rates: for the records, by name, from the number of steps before.
      candidates: bits of each searched layer, where they are selected.
    """
    config, phase = context.config, phase or section
    self.context, self.phase, self._section, self._evaluate = context, phase, section, evaluate
    self.num_steps = config[section].epochs * context.steps_per_epoch
    self.progress, self._in_flight = None, StepsInFlight()
    self._saving, self._step, self._checkpoints, self._recorder = saving, 0, None, None
    if saving is not None:
      if saving.metrics is not None:
        self._recorder = Recorder(saving.metrics, context, phase, learning_rates, candidates)
      self._checkpoints = StepCheckpoints(
          saving.folder / "steps" / phase, phase, every_steps=config.checkpoints.every_steps,
          max_to_keep=config.checkpoints.max_to_keep)

  def start(self, state: Any) -> Any:
    """The state to begin with, placed on the devices: the newest saved one, or `state`."""
    if self._checkpoints is not None:
      state = self._checkpoints.restore(state)
      self._step = self._checkpoints.last_step
      self._saving.earlier_seconds[self.phase] = self._checkpoints.earlier_seconds
    if self._recorder is not None:
      self._recorder.start(self._step, self._checkpoints.earlier_seconds)
    self.progress = Progress(
        self.phase, self.num_steps, self.context.config.batch_size, self.context.config.log_every_seconds, self._step)
    return self.context.replicate(state)

  def batches(self) -> Iterator[tuple[int, dict[str, jax.Array]]]:
    """Epoch of this phase and batch, from the step on at which the loop continues."""
    try:
      while self._step < self.num_steps:
        epoch, first_batch = divmod(self._step, self.context.steps_per_epoch)
        for batch in self.context.place(self.context.train_epoch(self._first_epoch() + epoch, first_batch)):
          yield epoch, batch
    finally:  # At the end, and where a record cannot be decoded.
      self.progress.close()

  def after_step(self, state: dict[str, Any], metrics: dict[str, jax.Array]) -> None:
    """Counts a step, prints and saves where that is due.

    Args:
      state: {"meta": MetaState} and perhaps {"arch": ArchState}.
      metrics: of the step.

    Raises:
      Interrupted: the run was asked to stop, and the state is saved.
      ValueError: a loss or gradient was not finite (the sentence names phase, step and layer), or the state cannot be
        saved.
    """
    try:
      self._after_step(state, metrics)
    except Exception:
      self.progress.close()
      raise

  def _after_step(self, state, metrics):
    self._step += 1
    self._in_flight.add(metrics)
    printed = self.progress.after_step(metrics)
    recorded = self._record_due()
    if printed or recorded:  # Only here, and where an evaluation or a save is due, does the host wait for this step.
      self._check_finite(state)
    self._record(recorded, state, metrics)
    top1 = self._evaluated(state)
    stop = self._asked_to_stop()
    if self._checkpoints is not None and (
        self._step % self._checkpoints.every_steps == 0 or stop or top1 is not None):
      self._check_finite(state)
      self._record_top1(top1)  # Before the save: no line up to a checkpoint is ever missing.
      self._checkpoints.save(self._step, state, top1)
    if stop:
      self._checkpoints.wait()
      self._checkpoints.close()
      raise Interrupted(f"stopped after step {self._step}/{self.num_steps} of {self.phase}")

  def finish(self) -> None:
    """Returns when everything is computed and saved."""
    self._in_flight.wait()
    if self._checkpoints is not None:
      self._checkpoints.wait()
      self._checkpoints.close()
      if self._checkpoints.best:
        self._saving.best[self.phase] = self._checkpoints.best

  def _evaluated(self, state):
    """Top-1 in percent where an evaluation is due, else None. Before the step is saved, so that none is missed."""
    epochs, rest = divmod(self._step, self.context.steps_per_epoch)
    every = self.context.config.evaluate_every_epochs
    if self._evaluate is None or rest or not every or epochs % every:
      return None
    top1 = self._evaluate(state)
    logger.info("%s: top-1 %.2f after epoch %d", self.phase, top1, epochs)
    return top1

  def _record_due(self):
    """Whether this step is recorded; the same in all processes."""
    every = self.context.config.metrics.every_steps
    return self._saving is not None and every and (self._step % every == 0 or self._step == self.num_steps)

  def _record(self, due, state, metrics):
    if self._recorder is None:
      return
    self._recorder.after_step(self._step, metrics)
    if self.progress.compiled:
      self._recorder.skip_rate(self._step)
    if due:
      self._recorder.record(self._step, state, metrics)

  def _record_top1(self, top1):
    if self._recorder is not None and top1 is not None:
      self._recorder.record_top1(self._step, top1)
      self._recorder.skip_rate(self._step)

  def _asked_to_stop(self):
    if self._saving is None:
      return False
    if jax.distributed.is_initialized():  # All processes are then told of the same step.
      return self._checkpoints.reached_preemption(self._step)
    return self._saving.stop_request.requested

  def _check_finite(self, state):
    """Raises UserError if an update was held back because its loss or gradient was not finite."""
    for name, part in state.items():
      bad_steps = np.ravel(part.bad_step)  # One for each target of an architecture state.
      if bad_steps.any():
        bad_step = int(bad_steps[bad_steps > 0].min())
        epoch, first_batch = divmod(bad_step - 1, self.context.steps_per_epoch)
        batch = next(self.context.place(self.context.train_epoch(self._first_epoch() + epoch, first_batch)))
        raise UserError(
            f"{self.phase}, step {bad_step}: the {_loss_of(name, part)} loss or its gradient"
            f" is not finite, first {diagnosis.first_not_finite(state['meta'], batch)}; nothing after step"
            f" {bad_step - 1} was kept; lower config.{self._section}.learning_rate or look at the data.")

  def _first_epoch(self):
    earlier = TRAINING_PHASES[:TRAINING_PHASES.index(self._section)]
    return sum(self.context.config[section].epochs for section in earlier)


def _loss_of(name, state):
  """Words for the loss that a state is trained on; for an architecture state with the targets whose loss is bad."""
  if name != "arch":
    return "training"
  bad_targets = np.asarray(state.target_gbops)[np.asarray(state.bad_step) > 0]
  return f"bit-search (target {', '.join(map(format_target, bad_targets))})"
