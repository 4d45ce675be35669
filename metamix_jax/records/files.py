"""Atomic writes of files; a file or folder that cannot be written is one sentence."""

from collections.abc import Callable, Mapping
import errno
import json
import os
import pathlib
import threading
from typing import Any

from metamix_jax.errors import UserError


def write_atomically(path: pathlib.Path, write: Callable[[pathlib.Path], Any]) -> None:
  """Writes a file atomically: under a temporary name in the same folder, which is then renamed.

  Args:
    path: the file; its folder is made if it does not exist.
    write: writes the whole content to the path that it gets.

  Raises:
    UserError: the file cannot be written; an earlier file at `path` is unchanged.
  """
  partial = _partial_of(path)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      write(partial)
      partial.replace(path)
    except BaseException:
      partial.unlink(missing_ok=True)
      raise
  except OSError as error:
    raise not_written(path, error) from error


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes UTF-8 text atomically; raises UserError as `write_atomically` does."""
  write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_json(path: pathlib.Path, values: Mapping[str, Any]) -> None:
  """Writes a JSON object atomically, indented by two spaces; raises UserError as `write_atomically` does."""
  write_text(path, json.dumps(values, indent=2) + "\n")


def replace_between(path: pathlib.Path, begin: str, end: str, text: str) -> None:
  """Replaces what stands between two comments of a page.

  Args:
    path: the page.
    begin: the first comment.
    end: the second comment.
    text: the new text; empty lines separate it from the comments.

  Raises:
    UserError: a comment is not there, or not behind the other one, or the file cannot be read or written.
  """
  try:
    before, found, rest = path.read_text(encoding="utf-8").partition(begin)
  except (OSError, ValueError) as error:
    raise UserError(f"{path} cannot be read ({error}); restore the page.") from error
  _, found_end, after = rest.partition(end)
  if not found or not found_end:
    raise UserError(f"{path} has lost {begin!r} or {end!r}, between which a table belongs; restore the page.")
  write_text(path, f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}")


def make_folder(folder: pathlib.Path) -> None:
  """Makes a folder where it does not exist; raises UserError where it cannot be made."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise not_written(folder, error) from error


def check_writable(path: str | os.PathLike) -> None:
  """Raises UserError if `write_atomically` could not write a file: for what a command writes after hours of work.

  A file that exists keeps its content, and one that does not exist is not made.
  """
  file = pathlib.Path(path)
  try:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.is_dir():
      raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    partial = _partial_of(file)  # As `write_atomically` writes it.
    partial.touch()
    partial.unlink()
  except (OSError, ValueError) as error:
    raise not_written(path, error) from error


def not_written(path: str | os.PathLike, error: Exception) -> UserError:
  """Returns the sentence about a file or folder that cannot be written; `error` is the reason."""
  reason = getattr(error, "strerror", None) or str(error)
  return UserError(
      f"{os.fspath(path)!r} cannot be written ({reason}); free the place, or choose a folder that can be written to."
      " What was saved before is whole.")


def _partial_of(path):
  """Returns the temporary name of a file: several processes may write the same file, and each has a name of its own."""
  return path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
