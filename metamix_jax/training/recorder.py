"""Records of a training phase: scalars of some steps in DIR/metrics.jsonl, and alarms in the log."""

from collections.abc import Callable, Mapping
import logging
import pathlib
from typing import Any

import jax
import ml_collections

from metamix_jax.records import multihost
from metamix_jax.records.alarms import EpochWatch, FloorWatch
from metamix_jax.records.clock import Clock
from metamix_jax.records.metrics import (
    TargetMetrics,
  loss_scalars,
  named_step_sizes,
  running_variance_scalars,
  search_scalars,
  shortest,
  step_size_scalars,
)
from metamix_jax.records.metrics_file import MetricsFile
from metamix_jax.records.names import format_target, targets
from metamix_jax.training.context import TrainingContext
from metamix_jax.training.search_limits import multipliers

logger = logging.getLogger("metamix_jax")


def open_metrics(workdir: pathlib.Path, section: ml_collections.ConfigDict) -> MetricsFile | None:
  """Opens the metrics of a run as config.metrics says; returns None if this process writes none."""
  if not multihost.is_lead_process() or not section.every_steps:
    return None
  if not section.tensorboard:
    return MetricsFile(workdir)
  from metamix_jax import data  # Loads TensorFlow: seconds.
  return MetricsFile(workdir, data.EventFile(workdir / "tensorboard"))


class Recorder:
  """Writes the lines of one phase.

  Attributes:
    context: of the run.
    phase: name of the phase, in each line.
  """

  def __init__(
      self, file: MetricsFile, context: TrainingContext, phase: str, learning_rates: Callable[[int], Mapping[str, Any]],
      bits: Mapping[str, int] | None, clock: Clock,
  ):
    """Makes a recorder that has not started.

    Args:
      file: the file to write.
      context: of the run.
      phase: name of the phase.
      learning_rates: (number of steps before) -> {name: learning rate}.
      bits: as in metrics.named_step_sizes.
      clock: of the phase.
    """
    config = context.config
    self.context, self.phase = context, phase
    self._epochs = EpochWatch(context.data.steps_per_epoch, [format_target(target) for target in targets(config)])
    self._costs = {}
    self._floor = FloorWatch(config.quantization.step_size_floor, config.metrics.alarm_records)
    self._file, self._learning_rates, self._bits = file, learning_rates, bits
    self._clock, self._recorded = clock, clock.mark()

  def start(self, step: int) -> None:
    """Starts after `step` (0: at the first one); drops the lines of later steps, which an interrupted run left."""
    self._file.keep(self.phase, step)
    self._recorded = self._clock.mark()

  def after_step(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
    """Keeps, on the devices, the metrics of every step that alarms need."""
    if "gbops" in metrics:
      self._costs[step] = metrics["gbops"]

  def record(self, step: int, state: Mapping[str, Any], metrics: Mapping[str, jax.Array]) -> None:
    """Waits for the devices, writes a line, and logs alarms.

    Args:
      step: step of the phase, from 1.
      state: the state after it, {"meta": MetaState} and perhaps {"arch": ArchState}.
      metrics: metrics of the step, scalars or vectors.

    Raises:
      UserError: the file cannot be written.
    """
    rates = self._learning_rates(step - 1)
    fetched = jax.device_get({
        "metrics": dict(metrics), "rates": list(rates.values()), "costs": self._costs,
        "step_sizes": state["meta"].step_sizes, "batch_stats": state["meta"].batch_stats,
        "alpha": state["arch"].alpha if "arch" in state else {},
        "multipliers": multipliers(state["arch"].limits) if "arch" in state else {}})
    layers, seconds_per_step = self.context.network.layers, self._clock.seconds_per_step(self._recorded)
    self._recorded = self._clock.mark()
    scalars = loss_scalars(layers, fetched["metrics"])
    scalars |= {name: shortest(rate) for name, rate in zip(rates, fetched["rates"], strict=True)}
    if seconds_per_step is not None:
      scalars["images_per_second"] = round(self.context.config.batch_size / seconds_per_step, 1)
    step_sizes = named_step_sizes(layers, fetched["step_sizes"], self._bits)
    scalars |= step_size_scalars(step_sizes) | running_variance_scalars(fetched["batch_stats"])
    if "gbops" in fetched["metrics"]:
      scalars |= search_scalars(layers, self._searches(fetched))
    self._file.append(self._head(step) | {"wall_seconds": round(self._clock.seconds, 3)} | scalars)
    self._costs = {}
    alarms = [self._epochs.look_at(number, cost) for number, cost in sorted(fetched["costs"].items())]
    for alarm in (*alarms, self._floor.look_at(step_sizes)):
      if alarm:
        logger.warning("alarm: %s, step %d: %s", self.phase, step, alarm)

  def record_top1(self, step: int, top1: float) -> None:
    """Writes the line of an evaluation; `top1` is in percent.

    Raises:
      UserError: the file cannot be written.
    """
    self._file.append(self._head(step) | {"top1": top1})

  def _head(self, step):
    return {"phase": self.phase, "step": step, "epoch": round(step / self.context.data.steps_per_epoch, 6)}

  def _searches(self, fetched):
    """Returns one TargetMetrics for each target, from alpha {layer name: [K, B]}, multipliers and metrics [K]."""
    metrics = fetched["metrics"]
    return [
        TargetMetrics(
            target, {name: values[index] for name, values in fetched["alpha"].items()}, metrics["search_loss"][index],
            metrics["gbops"][index], {name: values[index] for name, values in fetched["multipliers"].items()})
        for index, target in enumerate(targets(self.context.config))]
