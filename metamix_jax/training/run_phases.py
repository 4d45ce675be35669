"""The phases of a run in its folder: computed, or restored where they are finished."""

from collections.abc import Callable
import logging
import pathlib
import time

import jax

from metamix_jax.records.checkpoints import PhaseCheckpoints, keep_best
from metamix_jax.records.interruption import Interrupted, StopRequest
from metamix_jax.training.context import TrainingContext
from metamix_jax.training.loop import Saving
from metamix_jax.training.recorder import open_metrics
from metamix_jax.training.state import MetaState

logger = logging.getLogger("metamix_jax")

class RunPhases:
  """Computes the phases of a run, or restores those that are finished.

  Attributes:
    saving: where the running phase saves its steps, and what may stop it.
    seconds: of each phase so far, by name.
    best: {"step", "top1"} of each phase so far whose steps were evaluated, None for the others; by name.
  """

  def __init__(self, context: TrainingContext, workdir: pathlib.Path, stop_request: StopRequest):
    self._context, self._checkpoints = context, PhaseCheckpoints(workdir / "checkpoints")
    self.saving = Saving(self._checkpoints.folder, stop_request, open_metrics(workdir, context.config.metrics))
    self.seconds, self.best = {}, {}

  def is_finished(self, name: str) -> bool:
    """True if the phase of this name is there to be restored."""
    return self._checkpoints.is_finished(name)

  def run(
      self, name: str, meta: MetaState, compute: Callable[[MetaState], tuple[MetaState, dict]]
  ) -> tuple[MetaState, dict]:
    """The state after a phase, placed on the devices, and the phase's results.

    Args:
      name: of the phase.
      meta: what it starts from; not to be used again.
      compute: the phase itself; its results become JSON.

    Raises:
      Interrupted: the run was asked to stop, and everything is saved.
      ValueError: a checkpoint cannot be written.
    """
    finished = self._checkpoints.restore(name, _saved(meta))
    if finished:
      logger.info("%s: restored from %s", name, self._checkpoints.folder.parent)
      saved, results = finished
      meta = meta.replace(**saved)
    else:
      start = time.monotonic()
      meta, results = compute(meta)
      jax.block_until_ready(meta)
      results["seconds"] = time.monotonic() - start + self.saving.earlier_seconds.get(name, 0.0)
      results["best"] = self.saving.best.get(name)
      self._checkpoints.save(name, _saved(meta), results)
    keep_best(self.saving.folder, name, results["best"] and results["best"]["step"])
    self.seconds[name], self.best[name] = results["seconds"], results["best"]
    if self.saving.stop_request.requested:
      raise Interrupted(f"stopped after {name}")
    return self._context.replicate(meta), results


def _saved(meta):
  return {"weights": meta.weights, "step_sizes": meta.step_sizes, "batch_stats": meta.batch_stats}
