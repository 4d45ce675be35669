"""Checkpoints with Orbax: the result of each finished phase, and steps of the running phase.

  DIR/checkpoints/PHASE, PHASE.json    a finished phase: its state without optimisers, and its results
  DIR/checkpoints/steps/PHASE/STEP     the running phase: whole states, optimisers included, and the clock
  DIR/checkpoints/best/PHASE/STEP      a finished phase with evaluated steps: the step with the best top-1

A run that starts again skips finished phases and continues the running phase at its newest complete step. Orbax writes
under a temporary name and renames complete checkpoints, so an interruption at any moment keeps the older ones intact.
States are saved as host arrays, without their placement, so another number of devices or processes can continue.
Every process calls everything here; the first process writes.
"""

import json
import logging
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from metamix_jax.errors import UserError
from metamix_jax.records import multihost
from metamix_jax.records.clock import Clock
from metamix_jax.records.files import make_folder, write_json
from metamix_jax.records.saved_arrays import own_process, read_json, restore_everywhere, with_keys, words_of

logger = logging.getLogger("metamix_jax")

# The keys that JSON beside a state must have.
_PROGRESS = ("best", "seconds")


class PhaseCheckpoints:
  """Saves and restores the finished phases of a run: an Orbax checkpoint and a JSON of results for each.

  Attributes:
    folder: DIR/checkpoints.
  """

  def __init__(self, folder: pathlib.Path):
    """Makes the folder; raises UserError where it cannot be made."""
    self.folder = folder.absolute()
    _make_folder(self.folder)

  def save(self, phase: str, tree: Any, results: dict) -> None:
    """Saves the arrays of `tree`, then the phase's results; replaces an incomplete attempt.

    Raises:
      UserError: the files cannot be written; in every process.
    """
    with multihost.failing_together():
      if not multihost.is_lead_process():
        return
      tree = jax.device_get(tree)
      _check_space(phase, self.folder, tree)
      try:
        with ocp.StandardCheckpointer(multiprocessing_options=own_process()) as checkpointer:
          checkpointer.save(self.folder / phase, tree, force=True)
        write_json(self.results_file(phase), results)
      except Exception as error:  # Orbax and TensorStore raise several types for a full or vanished disk.
        raise _not_saved(phase, self.folder, words_of(error)) from error

  def is_finished(self, phase: str) -> bool:
    """Tells whether the phase has its results; the first process looks, for all of them."""
    return multihost.total(int(multihost.is_lead_process() and self.results_file(phase).exists())) > 0

  def restore(self, phase: str, like: Any) -> tuple[Any, dict] | None:
    """Restores the tree and the results of a finished phase.

    Args:
      phase: name of the phase.
      like: a tree with the structure, shapes and dtypes to restore.

    Returns:
      The tree as host arrays, and the results. None if the phase is not finished, or if its files are damaged; the log
      then names them.

    Raises:
      UserError: the tree that was saved has other names, shapes or dtypes.
    """
    if not self.is_finished(phase):
      return None
    read_results = lambda: with_keys(json.loads(self.results_file(phase).read_text()), *_PROGRESS)
    restored, reason = restore_everywhere(self.folder / phase, like, read_results)
    if restored is None:
      # Set aside, not deleted: files that cannot be read now may be intact on a disk that is away for a moment.
      for path in (self.results_file(phase), self.folder / phase):
        aside = _set_aside(path)
      logger.warning("%s: its checkpoint cannot be read and is now %s (%s); the phase is run again", phase, aside,
                     reason)
    return restored

  def results_file(self, phase: str) -> pathlib.Path:
    """Returns the file that holds the results of a phase."""
    return self.folder / f"{phase}.json"


class StepCheckpoints:
  """Saves the newest steps of the running phase in the background, and restores them.

  Attributes:
    phase: name of the phase.
    folder: folder of its steps.
    best: {"step", "top1"} of the best step that was evaluated; None if no step was evaluated.
  """

  def __init__(self, folder: pathlib.Path, phase: str, clock: Clock, *, max_to_keep: int):
    """Opens the folder; raises UserError where it cannot be made."""
    self.phase, self.folder = phase, folder.absolute()
    self.best: dict[str, float] | None = None
    self._clock, self._saved_step, self._manager = clock, 0, None
    _make_folder(self.folder)
    if multihost.is_lead_process():
      keep = AnyPreservationPolicy([
          LatestN(max_to_keep),
          BestN(get_metric_fn=lambda metrics: metrics["top1"], n=1, keep_checkpoints_without_metrics=False)])
      self._manager = ocp.CheckpointManager(
          self.folder, options=ocp.CheckpointManagerOptions(
              preservation_policy=keep, create=False, enable_async_checkpointing=True,
              multiprocessing_options=own_process()))

  def restore(self, state: Any) -> tuple[Any, int]:
    """Restores the newest complete state; sets `best` and the seconds of the clock.

    Returns:
      The state as host arrays in the structure of `state`, and the number of its step; `state` itself and 0 if no
      checkpoint can be read.

    Raises:
      UserError: the state that was saved has other names, shapes or dtypes.
    """
    while step := self._newest_step():
      folder = self.folder / str(step)
      restored, reason = restore_everywhere(
          folder / "state", state, lambda folder=folder: read_json(folder / "progress", *_PROGRESS))
      if restored is None:
        aside = _set_aside(folder, self.folder.with_name(f"{self.phase}_{step}"))
        logger.warning("%s: the checkpoint of step %d cannot be read and is now %s (%s); an older one is looked for",
                       self.phase, step, aside, reason)
        continue
      state, progress = restored
      self.best = progress["best"] or None
      self._clock.continue_from(progress["seconds"])
      logger.info("%s: continued after step %d, from %s", self.phase, step, self.folder)
      return state, step
    return state, 0

  def save(self, step: int, state: Any, top1: float | None = None) -> None:
    """Waits for the save before, copies a state, and starts to save it together with the clock and the best step.

    Args:
      step: number of the step.
      state: tree of arrays.
      top1: top-1 of the state in percent; None: not evaluated. Of equal best steps the last one is kept.

    Raises:
      UserError: this save or the one before failed, in every process; complete checkpoints stay intact.
    """
    if top1 is not None and (self.best is None or top1 >= self.best["top1"]):
      self.best = {"step": step, "top1": top1}
    with multihost.failing_together():
      if self._manager is None:
        return
      # Copies: on a CPU, device_get shows buffers that the next step overwrites.
      state = jax.tree.map(np.array, jax.device_get(state))
      _check_space(f"{self.phase}, step {step}", self.folder, state)
      try:
        self._manager.save(
            step, metrics=None if top1 is None else {"top1": top1}, args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                progress=ocp.args.JsonSave({"seconds": self._clock.seconds, "best": self.best})))
      except Exception as error:  # Orbax and TensorStore raise several types for missing and damaged files.
        raise _not_saved(f"{self.phase}, step {step}", self.folder, words_of(error)) from error
      self._saved_step = step

  def close(self) -> None:
    """Waits until everything is on the disk, and ends the background threads; raises UserError as `save` does."""
    with multihost.failing_together():
      if self._manager is None:
        return
      try:
        self._manager.wait_until_finished()
      except Exception as error:  # Orbax and TensorStore raise several types for a full or vanished disk.
        raise _not_saved(f"{self.phase}, step {self._saved_step}", self.folder, words_of(error)) from error
      self._manager.close()

  def _newest_step(self):
    """Returns the newest complete step, 0 if there is none; the first process looks, for all of them."""
    if self._manager is None:
      return multihost.total(0)
    self._manager.reload()
    return multihost.total(max(self._manager.all_steps(), default=0))


def keep_best(folder: pathlib.Path, phase: str, step: int | None) -> None:
  """Deletes the steps of a finished phase except the best one, which moves to best/PHASE/STEP.

  Args:
    folder: DIR/checkpoints.
    phase: name of the finished phase.
    step: the best step; None: no step was evaluated.

  Raises:
    UserError: the step cannot be moved; in every process.
  """
  steps, best = folder / "steps" / phase, folder / "best" / phase
  with multihost.failing_together():
    if not multihost.is_lead_process() or not steps.exists():
      return
    if step is not None and (steps / str(step)).exists():
      shutil.rmtree(best, ignore_errors=True)
      make_folder(best)
      try:
        (steps / str(step)).rename(best / str(step))
      except OSError as error:
        raise _not_saved(f"{phase}, best step {step}", best, words_of(error)) from error
    shutil.rmtree(steps, ignore_errors=True)


def _make_folder(folder):
  """Makes a folder: the first process does, for all of them."""
  with multihost.failing_together():
    if multihost.is_lead_process():
      make_folder(folder)


def _set_aside(path, target=None):
  """Renames a file or folder, if it exists, to `target` (by default `path`) with the ending .unreadable."""
  target = target or path
  aside = target.with_name(target.name + ".unreadable")
  with multihost.failing_together():
    if multihost.is_lead_process() and path.exists():
      try:
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
      except OSError as error:
        raise UserError(
            f"{path} cannot be read, nor renamed ({error.strerror}); remove it, and the same command continues from"
            " what was saved before.") from error
  return aside


def _check_space(what, folder, tree):
  """Raises UserError if the disk has no room for the arrays; TensorStore itself would fail with pages of text."""
  needed, free = sum(leaf.nbytes for leaf in jax.tree.leaves(tree)), shutil.disk_usage(folder).free
  if needed > free:
    raise _not_saved(what, folder, f"{needed / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free")


def _not_saved(what, folder, reason):
  return UserError(
      f"{what}: the checkpoint cannot be written to {folder} ({reason}); what was saved before is whole, and the same"
      " command continues from there.")
