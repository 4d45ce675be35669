"""Checkpoints with Orbax: the result of each finished phase, and the steps of the one that is running.

  DIR/checkpoints/PHASE, PHASE.json    a finished phase: what it hands to the next, and its results
  DIR/checkpoints/steps/PHASE/STEP     the running phase: whole states, optimisers included

  DIR/checkpoints/best/PHASE/STEP      of a finished phase: the step with the best top-1, where steps were evaluated

A run that is started again skips finished phases and continues the running one at its newest complete step. Orbax
writes under another name and renames what is complete, so an interruption at any moment leaves the older ones whole.
States are saved as host arrays, without their placement: another number of devices or processes can go on with them.
Every process calls everything here; the first one writes.
"""

import json
import logging
import os
import pathlib
import re
import shutil
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from metamix_jax.errors import UserError
from metamix_jax.records.clock import Clock
from metamix_jax.records.files import write_json
from metamix_jax.records.multihost import is_lead_process, wait_for_all

logger = logging.getLogger("metamix_jax")


class PhaseCheckpoints:
  """The finished phases of a run: an Orbax checkpoint and a JSON of results for each.

  Attributes:
    folder: DIR/checkpoints.
  """

  def __init__(self, folder: pathlib.Path):
    self.folder = folder.absolute()
    if is_lead_process():
      self.folder.mkdir(parents=True, exist_ok=True)
    wait_for_all("checkpoints")

  def save(self, phase: str, tree: Any, results: dict) -> None:
    """Saves the arrays of `tree`, then the phase's results; replaces an incomplete attempt.

    Raises:
      ValueError: the files cannot be written.
    """
    tree = jax.device_get(tree)
    _check_space(phase, self.folder, tree)
    try:
      with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(self.folder / phase, tree, force=True)
      if is_lead_process():
        write_json(self.results_file(phase), results)
    except Exception as error:  # Orbax and TensorStore raise several types for a full or vanished disk.
      raise _not_saved(phase, self.folder, error) from error
    wait_for_all(f"{phase} saved")

  def is_finished(self, phase: str) -> bool:
    """True if the phase has its results."""
    return self.results_file(phase).exists()

  def restore(self, phase: str, like: Any) -> tuple[Any, dict] | None:
    """The tree of a finished phase, in the structure, shapes and dtypes of `like`, as host arrays, and its results.

    None if the phase is not finished, or if its files are damaged: then a sentence in the log says so.
    """
    if not self.is_finished(phase):
      return None
    try:
      with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(self.folder / phase, jax.device_get(like)), json.loads(self.results_file(phase).read_text())
    except Exception as error:  # Orbax and TensorStore raise several types for missing and damaged files.
      # Set aside, not deleted: what cannot be read now may be whole, on a disk that is away for a moment.
      for path in (self.results_file(phase), self.folder / phase):
        aside = _set_aside(path)
      logger.warning("%s: its checkpoint cannot be read and is now %s (%s); the phase is run again", phase, aside,
                     _reason(error))
      return None

  def results_file(self, phase: str) -> pathlib.Path:
    """Returns the file that holds the results of a phase."""
    return self.folder / f"{phase}.json"


class StepCheckpoints:
  """The newest steps of the phase that is running; saved in the background while training goes on.

  Attributes:
    phase: name of the phase.
    folder: where its steps are.
    best: {"step", "top1"} of the best step that was evaluated; None for none.
  """

  def __init__(self, folder: pathlib.Path, phase: str, clock: Clock, *, max_to_keep: int):
    self.phase, self.folder = phase, folder.absolute()
    self.best: dict[str, float] | None = None
    self._clock, self._saved_step = clock, 0
    keep = AnyPreservationPolicy([
        LatestN(max_to_keep),
        BestN(get_metric_fn=lambda metrics: metrics["top1"], n=1, keep_checkpoints_without_metrics=False)])
    self._manager = ocp.CheckpointManager(
        self.folder, options=ocp.CheckpointManagerOptions(
            preservation_policy=keep, create=True, enable_async_checkpointing=True))

  def restore(self, state: Any) -> tuple[Any, int]:
    """Returns the newest complete state as host arrays, in the structure of `state`, and the number of its step.

    Returns `state` itself and 0 where there is none. Sets `best` and the seconds of the clock.
    """
    like = jax.device_get(state)
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        restored = self._manager.restore(step, args=ocp.args.Composite(
            state=ocp.args.StandardRestore(like), progress=ocp.args.JsonRestore()))
      except Exception as error:  # Orbax and TensorStore raise several types for missing and truncated files.
        aside = _set_aside(self.folder / str(step), self.folder.with_name(f"{self.phase}_{step}"))
        self._manager.reload()
        logger.warning("%s: the checkpoint of step %d cannot be read and is now %s (%s); an older one is looked for",
                       self.phase, step, aside, _reason(error))
        continue
      self.best = restored["progress"]["best"] or None
      self._clock.continue_from(restored["progress"]["seconds"])
      logger.info("%s: continued after step %d, from %s", self.phase, step, self.folder)
      return restored["state"], step
    return state, 0

  def save(self, step: int, state: Any, top1: float | None = None) -> None:
    """Starts saving a state, once its arrays are copied; waits for the save before.

    Args:
      step: its number.
      state: tree of arrays.
      top1: of the state, in percent, where it was evaluated; the last one with the highest is kept.

    Raises:
      ValueError: this or the save before could not be written; the checkpoints that were complete still are.
    """
    if top1 is not None and (self.best is None or top1 >= self.best["top1"]):
      self.best = {"step": step, "top1": top1}
    # Copies: the next step overwrites what device_get shows on a CPU.
    state = jax.tree.map(np.array, jax.device_get(state))
    _check_space(f"{self.phase}, step {step}", self.folder, state)
    try:
      self._manager.save(
          step, metrics=None if top1 is None else {"top1": top1}, args=ocp.args.Composite(
              state=ocp.args.StandardSave(state),
              progress=ocp.args.JsonSave({"seconds": self._clock.seconds, "best": self.best})))
    except Exception as error:  # Orbax and TensorStore raise several types for missing and damaged files.
      raise _not_saved(f"{self.phase}, step {step}", self.folder, error) from error
    self._saved_step = step

  def reached_preemption(self, step: int) -> bool:
    """True if the cluster has announced, through jax.distributed, that it takes the machines away."""
    return self._manager.reached_preemption(step)

  def close(self) -> None:
    """Waits until everything is on the disk, and ends the background threads; raises as `save`."""
    try:
      self._manager.wait_until_finished()
    except Exception as error:  # Orbax and TensorStore raise several types for a full or vanished disk.
      raise _not_saved(f"{self.phase}, step {self._saved_step}", self.folder, error) from error
    self._manager.close()


def keep_best(folder: pathlib.Path, phase: str, step: int | None) -> None:
  """After a phase: its steps are deleted but for the best one, which moves to best/PHASE/STEP.

  Args:
    folder: DIR/checkpoints.
    phase: that is finished.
    step: the best one; None: no step was evaluated.
  """
  wait_for_all(f"{phase} finished")
  steps = folder / "steps" / phase
  if not is_lead_process() or not steps.exists():
    return
  if step is not None and (steps / str(step)).exists():
    shutil.rmtree(folder / "best" / phase, ignore_errors=True)
    (folder / "best" / phase).mkdir(parents=True)
    (steps / str(step)).rename(folder / "best" / phase / str(step))
  shutil.rmtree(steps, ignore_errors=True)


def _set_aside(path, target=None):
  """Renames a file or folder, if it is there, to `target` (by default its own name) with .unreadable behind."""
  target = target or path
  aside = target.with_name(target.name + ".unreadable")
  if is_lead_process() and path.exists():
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
  wait_for_all(f"{aside.name} set aside")
  return aside


def _check_space(what, folder, tree):
  """Raises UserError where the disk has no room for the arrays: TensorStore, once begun, fails with pages of text."""
  needed, free = sum(leaf.nbytes for leaf in jax.tree.leaves(tree)), shutil.disk_usage(folder).free
  if is_lead_process() and needed > free:
    raise _not_saved(what, folder, f"{needed / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free")


def _not_saved(what, folder, error):
  return UserError(
      f"{what}: the checkpoint cannot be written to {folder} ({_reason(error)}); what was saved before is whole, and"
      " the same command continues from there.")


def _reason(error):
  """A few words from an error: what the system said, where TensorStore passes that on, or its first line."""
  code = re.search(r"os_error_code='(\d+)'", str(error))
  if code:
    return os.strerror(int(code[1]))
  line = (str(error).splitlines() or [type(error).__name__])[0]
  return line.partition(" [tensorstore_spec")[0].rstrip(".")
