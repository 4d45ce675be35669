"""Records of a training phase: now and then, the scalars of a step to DIR/metrics.jsonl, and alarms to the log."""

from collections.abc import Callable, Mapping
import logging
import pathlib
import time
from typing import Any

import jax
import ml_collections

from metamix_jax.records import multihost
from metamix_jax.records.alarms import EpochWatch, FloorWatch
from metamix_jax.records.metrics import (
  TargetMetrics,
  loss_scalars,
  named_step_sizes,
  search_scalars,
  shortest,
  step_size_scalars,
)
from metamix_jax.records.metrics_file import MetricsFile
from metamix_jax.records.names import format_target, targets
from metamix_jax.training.context import TrainingContext

logger = logging.getLogger("metamix_jax")


def open_metrics(workdir: pathlib.Path, section: ml_collections.ConfigDict) -> MetricsFile | None:
  """The metrics of a run as config.metrics wants them; None: this process writes none."""
  if not multihost.is_first() or not section.every_steps:
    return None
  if not section.tensorboard:
    return MetricsFile(workdir)
  from metamix_jax import data  # pylint: disable=g-import-not-at-top  Loads TensorFlow: seconds.
  return MetricsFile(workdir, data.EventFile(workdir / "tensorboard"))


class Recorder:
  """Writes the lines of one phase.

  Attributes:
    context: the context.
    phase: at the start of each line.
  """

  def __init__(
      self, file: MetricsFile, context: TrainingContext, phase: str, learning_rates: Callable[[int], Mapping[str, Any]],
      candidates: Mapping[str, int] | None,
  ):
    """A recorder that has not started.

    Args:
      file: that it writes.
      context: the context.
      phase: name of the phase.
      learning_rates: by name, from the number of steps before.
      candidates: see metrics.named_step_sizes.
    """
    config = context.config
    self.context, self.phase = context, phase
    self._epochs = EpochWatch(context.steps_per_epoch, [format_target(target) for target in targets(config)])
    self._costs = {}
    self._floor = FloorWatch(config.quantization.step_size_floor, config.metrics.alarm_records)
    self._file, self._learning_rates, self._candidates = file, learning_rates, candidates
    self._started = self._rate_time = time.monotonic()
    self._rate_step = 0  # The first step compiles and moves both.

  def start(self, step: int, earlier_seconds: float) -> None:
    """Begins after a step, 0 for the first; lines of later ones, left by an interrupted run, are dropped."""
    self._file.keep(self.phase, step)
    self._started = time.monotonic() - earlier_seconds

  def after_step(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
    """Keeps what an alarm needs of every step, on the devices."""
    if "gbops" in metrics:
      self._costs[step] = metrics["gbops"]

  def skip_rate(self, step: int) -> None:
    """Leaves the time up to here, the end of a step, out of the images per second."""
    self._rate_step, self._rate_time = step, time.monotonic()

  def record(self, step: int, state: Mapping[str, Any], metrics: Mapping[str, jax.Array]) -> None:
    """Waits for the devices, writes a line and sounds alarms.

    Args:
      step: of the phase, from 1.
      state: after it, {"meta": MetaState} and perhaps {"arch": ArchState}.
      metrics: of it.

    Raises:
      ValueError: the file cannot be written.
    """
    rates = self._learning_rates(step - 1)
    fetched = jax.device_get({
        "metrics": dict(metrics), "rates": list(rates.values()), "costs": self._costs,
        "step_sizes": state["meta"].step_sizes, "alpha": state["arch"].alpha if "arch" in state else {}})
    now, layers = time.monotonic(), self.context.network.layers
    scalars = loss_scalars(layers, fetched["metrics"])
    scalars |= {name: shortest(rate) for name, rate in zip(rates, fetched["rates"])}
    if step > self._rate_step:
      num_images = (step - self._rate_step) * self.context.config.batch_size
      scalars["images_per_second"] = round(num_images / (now - self._rate_time), 1)
    self._rate_step, self._rate_time = step, now
    step_sizes = named_step_sizes(layers, fetched["step_sizes"], self._candidates)
    scalars |= step_size_scalars(step_sizes)
    if "gbops" in fetched["metrics"]:
      scalars |= search_scalars(layers, self._searches(fetched["alpha"], fetched["metrics"]))
    self._file.append(self._head(step) | {"wall_seconds": round(now - self._started, 3)} | scalars)
    self._costs = {}
    alarms = [self._epochs.look_at(number, cost) for number, cost in sorted(fetched["costs"].items())]
    for alarm in (*alarms, self._floor.look_at(step_sizes)):
      if alarm:
        logger.warning("alarm: %s, step %d: %s", self.phase, step, alarm)

  def record_top1(self, step: int, top1: float) -> None:
    """Writes the line of an evaluation.

    Raises:
      ValueError: the file cannot be written.
    """
    self._file.append(self._head(step) | {"top1": top1})

  def _head(self, step):
    return {"phase": self.phase, "step": step, "epoch": round(step / self.context.steps_per_epoch, 6)}

  def _searches(self, alpha, metrics):
    """One for each target; alpha [K, B], metrics [K]."""
    return [
        TargetMetrics(target, {name: values[index] for name, values in alpha.items()}, metrics["search_loss"][index],
                      metrics["gbops"][index])
        for index, target in enumerate(targets(self.context.config))]
