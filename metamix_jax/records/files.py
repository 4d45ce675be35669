"""Atomic writes of files."""

from collections.abc import Callable, Mapping
import json
import pathlib
from typing import Any


def write_atomically(path: pathlib.Path, write: Callable[[pathlib.Path], Any]) -> None:
  """Writes a file atomically: under a temporary name in the same folder, which is then renamed.

  Args:
    path: the file; its folder is made if it does not exist.
    write: writes the whole content to the path that it gets.

  Raises:
    OSError: the file cannot be written; an earlier file at `path` is unchanged.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f"{path.name}.partial")
  try:
    write(partial)
  except BaseException:
    partial.unlink(missing_ok=True)
    raise
  partial.replace(path)


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes UTF-8 text atomically; raises OSError as `write_atomically` does."""
  write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_json(path: pathlib.Path, values: Mapping[str, Any]) -> None:
  """Writes a JSON object atomically, indented by two spaces; raises OSError as `write_atomically` does."""
  write_text(path, json.dumps(values, indent=2) + "\n")
