"""Checkpoints with Orbax: the result of each finished phase, and the steps of the one that is running.

  DIR/checkpoints/PHASE, PHASE.json    a finished phase: what it hands to the next, and its results
  DIR/checkpoints/steps/PHASE/STEP     the running phase: whole states, optimisers included

A run that is started again skips finished phases and continues the running one at its newest complete step. Orbax
writes under another name and renames what is complete, so an interruption at any moment leaves the older ones whole.
"""

import json
import logging
import pathlib
import shutil
import time
from typing import Any

import jax
import orbax.checkpoint as ocp

logger = logging.getLogger("metamix_jax")


class PhaseCheckpoints:
  """The finished phases of a run: an Orbax checkpoint and a JSON of results for each.

  Attributes:
    folder: DIR/checkpoints.
  """

  def __init__(self, folder: pathlib.Path):
    self.folder = folder.absolute()
    self.folder.mkdir(parents=True, exist_ok=True)

  def save(self, phase: str, tree: Any, results: dict) -> None:
    """Saves the arrays of `tree`, then the phase's results; replaces an incomplete attempt.

    Raises:
      ValueError: the files cannot be written.
    """
    try:
      with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(self.folder / phase, tree, force=True)
      partial = self._results(phase).with_suffix(".partial")
      partial.write_text(json.dumps(results, indent=2) + "\n")
      partial.rename(self._results(phase))
    except Exception as error:  # Orbax and TensorStore raise several types for a full or vanished disk.
      raise _not_saved(phase, self.folder, error) from error

  def restore(self, phase: str, like: Any) -> tuple[Any, dict] | None:
    """The tree of a finished phase, in the structure, shapes and dtypes of `like`, and its results.

    None if the phase is not finished, or if its files are damaged: then a sentence in the log says so.
    """
    if not self._results(phase).exists():
      return None
    try:
      with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(self.folder / phase, like), json.loads(self._results(phase).read_text())
    except Exception as error:  # As above.
      logger.warning("%s: its checkpoint in %s is damaged (%s); the phase is run again", phase, self.folder,
                     _first_line(error))
      self._results(phase).unlink()
      return None

  def _results(self, phase: str) -> pathlib.Path:
    return self.folder / f"{phase}.json"


class StepCheckpoints:
  """The newest steps of the phase that is running; saved in the background while training goes on.

  Attributes:
    phase: name of the phase.
    folder: where its steps are.
    every_steps: steps between two checkpoints.
    last_step: of the newest one that was saved or restored; 0 for none.
    earlier_seconds: spent on the phase before the step that was restored.
  """

  def __init__(self, folder: pathlib.Path, phase: str, *, every_steps: int, max_to_keep: int):
    self.phase, self.folder, self.every_steps, self.last_step = phase, folder.absolute(), every_steps, 0
    self._manager = ocp.CheckpointManager(
        self.folder, options=ocp.CheckpointManagerOptions(
            max_to_keep=max_to_keep, create=True, enable_async_checkpointing=True))
    self._started, self.earlier_seconds = time.monotonic(), 0.0

  def restore(self, state: Any) -> Any:
    """The newest complete state, in the structure of `state`; `state` itself where there is none. Sets last_step."""
    like = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        restored = self._manager.restore(step, args=ocp.args.Composite(
            state=ocp.args.StandardRestore(like), progress=ocp.args.JsonRestore()))
      except Exception as error:  # Orbax and TensorStore raise several types for missing and truncated files.
        logger.warning("%s: the checkpoint of step %d in %s is damaged (%s); an older one is looked for", self.phase,
                       step, self.folder, _first_line(error))
        self._manager.delete(step)
        continue
      self.last_step, self.earlier_seconds = step, restored["progress"]["seconds"]
      self._started = time.monotonic()
      logger.info("%s: continued after step %d, from %s", self.phase, step, self.folder)
      return restored["state"]
    return state

  def save(self, step: int, state: Any) -> None:
    """Starts saving a state, once its arrays are copied; waits for the save before.

    Raises:
      ValueError: this or the save before could not be written; the checkpoints that were complete still are.
    """
    seconds = self.earlier_seconds + time.monotonic() - self._started
    try:
      self._manager.save(step, args=ocp.args.Composite(
          state=ocp.args.StandardSave(state), progress=ocp.args.JsonSave({"seconds": seconds})))
    except Exception as error:  # As above.
      raise _not_saved(f"{self.phase}, step {step}", self.folder, error) from error
    self.last_step = step

  def wait(self) -> None:
    """Returns when everything is on the disk; raises as `save`."""
    try:
      self._manager.wait_until_finished()
    except Exception as error:  # As above.
      raise _not_saved(f"{self.phase}, step {self.last_step}", self.folder, error) from error

  def reached_preemption(self, step: int) -> bool:
    """True if the cluster has announced, through jax.distributed, that it takes the machines away."""
    return self._manager.reached_preemption(step)

  def close(self) -> None:
    """Ends the background threads."""
    self._manager.close()


def remove_steps(folder: pathlib.Path) -> None:
  """Deletes the steps of a phase that is finished."""
  shutil.rmtree(folder, ignore_errors=True)


def _not_saved(what, folder, error):
  return ValueError(
      f"{what}: the checkpoint cannot be written to {folder} ({_first_line(error)}); what was saved before is whole, and"
      " the same command continues from there.")


def _first_line(error):
  return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
