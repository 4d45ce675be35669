"""Checkpoints with Orbax, one at the end of each phase; a run that is started again skips finished phases.

A phase starts with a fresh optimiser (M14), so what one phase hands to the next is weights, step sizes and
running statistics, and alpha once it has been searched.
"""

import json
import pathlib
from typing import Any

import orbax.checkpoint as ocp


class PhaseCheckpoints:
  """The finished phases of a run: an Orbax checkpoint and a JSON of results for each.

  Attributes:
    folder: DIR/checkpoints.
  """

  def __init__(self, folder: pathlib.Path):
    self.folder = folder.absolute()
    self.folder.mkdir(parents=True, exist_ok=True)

  def finished(self, phase: str) -> bool:
    """True if the phase was saved completely; the results are written last."""
    return self._results(phase).exists()

  def save(self, phase: str, tree: Any, results: dict) -> None:
    """Saves the arrays of `tree` and the phase's results; replaces an incomplete attempt."""
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(self.folder / phase, tree, force=True)
    partial = self._results(phase).with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=2) + "\n")
    partial.rename(self._results(phase))

  def restore(self, phase: str, like: Any) -> tuple[Any, dict]:
    """The saved tree, in the structure, shapes and dtypes of `like`, and the results."""
    with ocp.StandardCheckpointer() as checkpointer:
      tree = checkpointer.restore(self.folder / phase, like)
    return tree, json.loads(self._results(phase).read_text())

  def _results(self, phase: str) -> pathlib.Path:
    return self.folder / f"{phase}.json"
