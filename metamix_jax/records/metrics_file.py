"""DIR/metrics.jsonl: one JSON object a line, appended while a run goes on; the same scalars for TensorBoard."""

from collections.abc import Mapping
import json
import os
import pathlib
from typing import Any

from metamix_jax.errors import UserError
from metamix_jax.records.files import write_text


class MetricsFile:
  """Writes the lines of all phases of a run, over all interruptions; for the first process.

  A line is written before its step is saved, so no line up to a checkpoint is ever missing. Steps after the newest
  checkpoint are computed again: `keep` drops their lines, and an incomplete line at the end.
  """

  def __init__(self, workdir: pathlib.Path, events: Any = None):
    """Opens DIR/metrics.jsonl; `events`, a data.EventFile, gets the same scalars; None: no TensorBoard."""
    self._path, self._events = workdir / "metrics.jsonl", events

  def keep(self, phase: str, step: int) -> None:
    """Drops the lines of a phase after `step`.

    Raises:
      UserError: the file cannot be read or written.
    """
    try:
      texts = self._path.read_text().splitlines(keepends=True) if self._path.exists() else []
    except (OSError, UnicodeDecodeError) as error:
      raise UserError(
          f"{self._path} cannot be read ({getattr(error, 'strerror', error)}); repair it, or move it away to record the"
          " steps from here on only.") from error
    lines = [_parse(text) for text in texts]
    kept = [line is not None and (line["phase"] != phase or line["step"] <= step) for line in lines]
    if not all(kept):
      write_text(self._path, "".join(text for text, keep in zip(texts, kept, strict=True) if keep))

  def append(self, line: Mapping[str, Any]) -> None:
    """Appends {"phase", "step", ...: numbers} as a line.

    Raises:
      UserError: the file cannot be written; earlier lines are intact.
    """
    try:
      with self._path.open("a") as file:
        file.write(json.dumps(line, allow_nan=False) + "\n")
      if self._events is not None:
        scalars = {f"{line['phase']}/{name}": value for name, value in line.items() if name not in ("phase", "step")}
        self._events.write(line["step"], scalars)
    except OSError as error:
      raise self._not_written(f"{line['phase']}, step {line['step']}", error) from error

  def _not_written(self, what, error):
    return UserError(
        f"{what}: the metrics cannot be written to {self._path.parent} ({error.strerror or os.strerror(error.errno)});"
        " what was saved before is whole, and the same command continues from there.")


def _parse(text):
  """Returns the line, or None if it is incomplete or not one of a step."""
  try:
    line = json.loads(text) if text.endswith("\n") else None
    return line if isinstance(line, dict) and isinstance(line["phase"], str) and line["step"] >= 0 else None
  except (ValueError, KeyError, TypeError):
    return None
