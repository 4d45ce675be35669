"""The phases of a run in its folder: each is computed, or restored if it is finished."""

from collections.abc import Callable
import logging
import pathlib
from typing import Any

import jax

from metamix_jax.records.checkpoints import PhaseCheckpoints, keep_best
from metamix_jax.records.clock import Clock
from metamix_jax.records.interruption import Interrupted, StopRequest
from metamix_jax.training.context import TrainingContext
from metamix_jax.training.loop import Saving
from metamix_jax.training.recorder import open_metrics
from metamix_jax.training.state import MetaState

logger = logging.getLogger("metamix_jax")


class RunPhases:
  """Computes the phases of a run, and restores finished ones.

  Attributes:
    saving: where the running phase saves its steps, and what may stop it.
    seconds: {phase: seconds} of the phases so far, over all starts.
    best: {phase: {"step", "top1"}} of the best evaluated step of each phase so far; None if no step was evaluated.
  """

  def __init__(self, context: TrainingContext, workdir: pathlib.Path, stop_request: StopRequest):
    self._context, self._checkpoints = context, PhaseCheckpoints(workdir / "checkpoints")
    self.saving = Saving(self._checkpoints.folder, stop_request, open_metrics(workdir, context.config.metrics))
    self.seconds, self.best = {}, {}

  def is_finished(self, name: str) -> bool:
    """Tells whether the phase of this name can be restored."""
    return self._checkpoints.is_finished(name)

  def results_file(self, name: str) -> pathlib.Path:
    """Returns the file that holds the results of a phase."""
    return self._checkpoints.results_file(name)

  def run(
      self, name: str, meta: MetaState, compute: Callable[[MetaState, Clock], tuple[MetaState, dict[str, Any]]]
  ) -> tuple[MetaState, dict[str, Any]]:
    """Computes or restores a phase.

    Args:
      name: name of the phase.
      meta: the state that it starts from; its buffers are donated, so do not use it again.
      compute: runs the phase; its results become JSON, with "best" if steps were evaluated.

    Returns:
      The state after the phase, replicated over the devices, and the results of the phase.

    Raises:
      Interrupted: the run was asked to stop, and everything is saved.
      UserError: a checkpoint cannot be written.
    """
    finished = self._checkpoints.restore(name, _saved_part(meta))
    if finished:
      logger.info("%s: restored from %s", name, self._checkpoints.folder.parent)
      saved, results = finished
      meta = meta.replace(**saved)
    else:
      clock = Clock()
      meta, results = compute(meta, clock)
      jax.block_until_ready(meta)
      results = {"best": None} | results | {"seconds": clock.seconds}
      self._checkpoints.save(name, _saved_part(meta), results)
    best = results["best"]
    keep_best(self.saving.folder, name, best and best["step"])
    self.seconds[name], self.best[name] = results["seconds"], best
    if self.saving.stop_request.requested:
      raise Interrupted(f"stopped after {name}")
    return self._context.replicate(meta), results


def _saved_part(meta):
  return {"weights": meta.weights, "step_sizes": meta.step_sizes, "batch_stats": meta.batch_stats}
