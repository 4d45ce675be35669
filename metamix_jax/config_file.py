"""Loads config files from any folder, for commands and for config files that derive from others; flattens configs."""

import importlib.machinery
import importlib.util
import inspect
import os
import pathlib
import sys
from typing import Any

import ml_collections

from metamix_jax.errors import UserError


def load_config(path: str | os.PathLike, argument: str | None = None) -> ml_collections.ConfigDict:
  """Loads the config that get_config() of a Python file returns, locked: fields can be set, but not added.

  A config that derives from another one loads it, changes what differs, and returns it.

  Args:
    path: the file; a relative path is looked up in the current folder. A file beside another config is
      pathlib.Path(__file__).with_name("base.py").
    argument: argument of get_config(), such as ARGUMENT in --config=FILE:ARGUMENT; None: no argument.

  Raises:
    UserError: the file cannot be read, or has no get_config() that takes the argument and returns a ConfigDict. An
      exception of the file itself passes unchanged.
  """
  if not os.fspath(path):
    raise UserError("the path of the config file is empty; it must be a Python file with get_config().")
  try:
    pathlib.Path(path).read_bytes()
  except (OSError, ValueError) as error:  # ValueError: a null byte in the path.
    raise UserError(
        f"the config file {os.fspath(path)!r} cannot be read: {getattr(error, 'strerror', error)}.") from error
  loader = importlib.machinery.SourceFileLoader(f"config_file_{pathlib.Path(path).stem}", os.fspath(path))
  spec = importlib.machinery.ModuleSpec(loader.name, loader, origin=loader.path)
  spec.has_location = True  # Sets __file__ in the module.
  module = importlib.util.module_from_spec(spec)
  sys.modules[loader.name] = module  # As an import does: dataclasses look their module up.
  loader.exec_module(module)
  arguments = () if argument is None else (argument,)
  get_config = getattr(module, "get_config", None)
  if get_config is None:
    raise UserError(f"the config file {os.fspath(path)!r} has no function get_config().")
  try:
    inspect.signature(get_config).bind(*arguments)
  except TypeError as error:
    raise UserError(
        f"get_config() of the config file {os.fspath(path)!r} cannot be called with {arguments}: {error}.") from error
  config = get_config(*arguments)
  if not isinstance(config, ml_collections.ConfigDict):
    raise UserError(
        f"get_config() of the config file {os.fspath(path)!r} returns {config!r}; it must return a ConfigDict.")
  return config.unlock().lock()  # lock() on a locked config would skip sections that were added later.


def flatten(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns {"section.field": value}; a free section (network.options) stays one dict of plain values."""
  fields = {}
  for section, values in config.items():
    if not isinstance(values, ml_collections.ConfigDict):
      fields[section] = values
      continue
    for name, value in values.items():
      fields[f"{section}.{name}"] = value.to_dict() if isinstance(value, ml_collections.ConfigDict) else value
  return fields
