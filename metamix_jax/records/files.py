"""Files that are written atomically: whole or not at all."""

from collections.abc import Callable, Mapping
import json
import pathlib
from typing import Any


def write_atomically(path: pathlib.Path, write: Callable[[pathlib.Path], Any]) -> None:
  """Writes a file under a temporary name and renames it, so that an interruption never leaves half of it.

  Args:
    path: the file; its folder is made if it does not exist.
    write: writes the whole content to the path that it is given, in the same folder.

  Raises:
    OSError: the file cannot be written; what `path` held before is unchanged.
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
  """Writes UTF-8 text atomically; raises OSError as `write_atomically`."""
  write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_json(path: pathlib.Path, values: Mapping[str, Any]) -> None:
  """Writes a JSON object atomically, indented by two spaces; raises OSError as `write_atomically`."""
  write_text(path, json.dumps(values, indent=2) + "\n")
