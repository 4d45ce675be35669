"""DIR/metrics.jsonl: one JSON object a line, appended while a run goes on; and the same for TensorBoard."""

from collections.abc import Mapping
import json
import os
import pathlib
from typing import Any

from metamix_jax.errors import UserError
from metamix_jax.records.files import write_text


class MetricsFile:
  """The lines of all phases of a run, whatever interrupts it; for the first process.

  A line is written before the checkpoint of its step is begun, so no line up to a checkpoint is ever missing. Lines
  behind the newest checkpoint are of steps that will be made again: `keep` drops them, and half a line at the end.
  """

  def __init__(self, workdir: pathlib.Path, events: Any = None):
    """`events`: a data.EventFile that gets the same scalars; None: no TensorBoard."""
    self._path, self._events = workdir / "metrics.jsonl", events

  def keep(self, phase: str, step: int) -> None:
    """Drops the lines of a phase that are of later steps than `step`.

    Raises:
      ValueError: the file cannot be written.
    """
    texts = self._path.read_text().splitlines(keepends=True) if self._path.exists() else []
    lines = [_parse(text) for text in texts]
    kept = [line is not None and (line["phase"] != phase or line["step"] <= step) for line in lines]
    if not all(kept):
      try:
        write_text(self._path, "".join(text for text, keep in zip(texts, kept, strict=True) if keep))
      except OSError as error:
        raise self._not_written(f"{phase}, step {step}", error) from error

  def append(self, line: Mapping[str, Any]) -> None:
    """Writes {"phase", "step", ...: numbers} as a line.

    Raises:
      ValueError: the file cannot be written; what was written before is whole.
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
  """The line, or None where a kill left half of it."""
  try:
    return json.loads(text) if text.endswith("\n") else None
  except ValueError:
    return None
