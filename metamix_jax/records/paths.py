"""Paths as a user writes them: ~ is the home folder, and a run's folder is on a file system, not at a URL."""

import os
import pathlib
import re

import ml_collections

from metamix_jax.config_file import flatten
from metamix_jax.errors import UserError

# The fields of a config that are paths of files or folders.
PATH_FIELDS = (
    "arch.cost", "bits_from", "data.data_dir", "meta_state_from", "pretraining.weights",
    "teacher.kept_targets", "teacher.weights")
# Two letters or more: one is a drive. One slash is what pathlib leaves of two.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def local_folder(path: str | os.PathLike) -> pathlib.Path:
  """Returns the folder of a run that a user names, with ~ expanded.

  Raises:
    UserError: it is empty, or a URL such as gs://bucket/run.
  """
  return local_path(path, "workdir")


def local_path(path: str | os.PathLike, name: str) -> pathlib.Path:
  """Returns the file or folder that a user names, with ~ expanded.

  Args:
    path: as the user wrote it.
    name: of the field, flag or argument.

  Raises:
    UserError: it is empty, or a URL such as gs://bucket/table.csv.
  """
  text = os.fspath(path)
  if not text:
    raise UserError(f"{name} is empty; it must be a path.")
  if _URL.match(text):
    raise UserError(
        f"{name} {text} is a URL; allowed are paths of a file system, so mount the bucket or choose a local path.")
  return pathlib.Path(os.path.expanduser(text))


def expand_paths(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Returns a validated config with ~ expanded in every path, or itself where none begins with ~."""
  fields = flatten(config)
  expanded = {name: os.path.expanduser(fields[name]) for name in PATH_FIELDS if (fields[name] or "").startswith("~")}
  if not expanded:
    return config
  config = config.copy_and_resolve_references()
  config.update_from_flattened_dict(expanded)
  return config
