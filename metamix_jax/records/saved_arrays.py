"""Reads the arrays of an Orbax folder, after a comparison with the arrays that are needed.

Orbax itself hands back whatever shape is saved, and casts it to the dtype that is asked for.
"""

from collections.abc import Callable
import os
import pathlib
import re
from typing import Any

import jax
import orbax.checkpoint as ocp

from metamix_jax.errors import UserError
from metamix_jax.records import multihost


class DifferentTree(Exception):
  """Says in which leaf a saved tree differs from the one that is needed."""


def own_process() -> ocp.options.MultiprocessingOptions:
  """Returns Orbax's options for this process alone: no call waits for another process, which may not come."""
  index = jax.process_index()
  return ocp.options.MultiprocessingOptions(primary_host=index, active_processes={index})


def find_difference(folder: pathlib.Path, like: Any) -> str | None:
  """Compares name, shape and dtype of every array of a saved tree, without reading its values.

  Args:
    folder: an Orbax checkpoint of a tree.
    like: the tree that is needed, of arrays or jax.ShapeDtypeStruct.

  Returns:
    The first difference in words, such as "classifier/bias is float32 [1000] there and float32 [10] here". None if
    there is no difference, or if the folder does not say what it holds: then it is damaged, and cannot be read either.
  """
  with ocp.StandardCheckpointer(multiprocessing_options=own_process()) as checkpointer:
    metadata = checkpointer.metadata(folder).item_metadata
  if metadata is None:
    return None
  saved, needed = ({"/".join(path): f"{leaf.dtype} {list(leaf.shape)}" for path, leaf in leaves.items()}
                   for leaves in map(ocp.tree.to_flat_dict, (metadata.tree, like)))
  for name in sorted(saved.keys() | needed.keys()):
    if saved.get(name) != needed.get(name):
      return f"{name} is {saved.get(name, 'missing')} there and {needed.get(name, 'not needed')} here"
  return None


def restore(folder: pathlib.Path, like: Any) -> Any:
  """Restores a tree as host arrays, in this process.

  Args:
    folder: an Orbax checkpoint of the tree.
    like: a tree with the names, shapes and dtypes that it must have.

  Raises:
    DifferentTree: the saved tree has others. Orbax and TensorStore raise several types for missing and damaged files.
  """
  like = jax.device_get(like)
  try:
    with ocp.StandardCheckpointer(multiprocessing_options=own_process()) as checkpointer:
      tree = checkpointer.restore(folder, like)
  except ValueError as error:
    # Orbax's word where the names differ.
    difference = find_difference(folder, like) if "structure" in str(error).lower() else None
    if difference is None:
      raise
    raise DifferentTree(difference) from error
  difference = find_difference(folder, like)
  if difference is not None:
    raise DifferentTree(difference)
  return tree


def restore_everywhere(folder: pathlib.Path, like: Any, read_rest: Callable[[], Any]) -> tuple[tuple | None, str]:
  """Restores a tree and what was saved beside it, in every process or in none.

  Args:
    folder: an Orbax checkpoint of the tree.
    like: a tree with the names, shapes and dtypes that it must have.
    read_rest: reads what is beside it; raises any exception where that is damaged.

  Returns:
    ((tree of host arrays, rest), ""), or (None, the reason in a few words) if a process cannot read them.

  Raises:
    UserError: the saved tree has other names, shapes or dtypes; in every process.
  """
  restored = error = None
  with multihost.failing_together():
    try:
      restored = restore(folder, like), read_rest()
    except DifferentTree as difference:
      raise UserError(
          f"{folder} is of another network or another version of its code: {difference}; bring the earlier network"
          " back, or choose another workdir.") from difference
    except Exception as caught:  # See `restore`.
      error = caught
  if multihost.total(int(error is not None)):
    return None, "another process could not read it" if error is None else words_of(error)
  return restored, ""


def read_json(folder: pathlib.Path, *keys: str) -> dict[str, Any]:
  """Reads what Orbax's JsonSave wrote; raises ValueError if it is not a dict with these keys."""
  with ocp.Checkpointer(ocp.JsonCheckpointHandler(), multiprocessing_options=own_process()) as checkpointer:
    return with_keys(checkpointer.restore(folder, args=ocp.args.JsonRestore()), *keys)


def with_keys(values: Any, *keys: str) -> dict[str, Any]:
  """Returns `values` if it is a dict with these keys; raises ValueError otherwise."""
  if not isinstance(values, dict) or not all(key in values for key in keys):
    raise ValueError(f"it holds no {' and '.join(keys)}")
  return values


def words_of(error: Exception) -> str:
  """Returns a few words from an error: the words of the system if it passes them on, or its first line."""
  cause = error.__cause__ or error
  if isinstance(cause, OSError) and cause.strerror:
    return cause.strerror
  code = re.search(r"os_error_code='(\d+)'", str(error))
  if code:
    return os.strerror(int(code[1]))
  line = (str(error).splitlines() or [type(error).__name__])[0]
  return line.partition(" [tensorstore_spec")[0].rstrip(".")
