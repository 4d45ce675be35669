"""The folder of a run: which config it belongs to, and which of its phases are finished."""

from collections.abc import Callable
import json
import logging
import pathlib
import time

import jax
import ml_collections

from metamix_jax import config as config_rules
from metamix_jax import processes
from metamix_jax.checkpoints import PhaseCheckpoints, keep_best
from metamix_jax.loop import Interrupted, Saving, StopRequest
from metamix_jax.recording import open_metrics
from metamix_jax.state import MetaState
from metamix_jax.task import Task

logger = logging.getLogger("metamix_jax")

# Fields that may change from start to start: they choose which phases are run, not what a phase does.
CHANGEABLE = ("arch.train_targets",)


def claim_workdir(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Writes DIR/config.json, every field but the changeable ones, or checks that the one there is of this config.

  Raises:
    ValueError: the folder holds a run of another config; the sentence names the first field that differs.
  """
  path = workdir / "config.json"
  fields = {name: value for name, value in config_rules.flatten(config).items() if name not in CHANGEABLE}
  fields = json.loads(json.dumps(fields))
  if processes.is_first() and not path.exists():
    workdir.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields, indent=2) + "\n")
  processes.wait_for_all("config.json")
  earlier = json.loads(path.read_text())
  for name in sorted(set(earlier) | set(fields)):
    if earlier.get(name) != fields.get(name):
      raise ValueError(
          f"workdir {workdir} holds a run of another config: {name} is {earlier.get(name)!r} there and "
          f"{fields.get(name)!r} here; choose another workdir.")


class RunPhases:
  """Computes the phases of a run, or restores those that are finished.

  Attributes:
    saving: where the running phase saves its steps, and what may stop it.
    seconds: of each phase so far, by name.
    best: {"step", "top1"} of each phase so far whose steps were evaluated, None for the others; by name.
  """

  def __init__(self, task: Task, workdir: pathlib.Path, stop_request: StopRequest):
    self._task, self._checkpoints = task, PhaseCheckpoints(workdir / "checkpoints")
    self.saving = Saving(self._checkpoints.folder, stop_request, open_metrics(workdir, task.config.metrics))
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
    return self._task.replicate(meta), results


def _saved(meta):
  return {"weights": meta.weights, "step_sizes": meta.step_sizes, "batch_stats": meta.batch_stats}
