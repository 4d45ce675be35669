"""Loads config files, from wherever they lie: for the commands, and for config files that derive from others."""

import importlib.machinery
import importlib.util
import inspect
import os
import pathlib
import sys

import ml_collections

from metamix_jax.errors import UserError


def load_config(path: str | os.PathLike, argument: str | None = None) -> ml_collections.ConfigDict:
  """Loads what the get_config() of a Python file returns, locked: fields can be set, and none added.

  A config that derives from another loads it, sets what differs and returns it.

  Args:
    path: the file; a relative path is looked up in the current folder. A file beside another config is
      pathlib.Path(__file__).with_name("base.py").
    argument: handed to get_config(), as what follows the colon of --config=FILE:ARGUMENT; None: nothing is.

  Raises:
    UserError: the file cannot be read, or has no get_config() that takes the argument and returns a ConfigDict. What
      the file itself raises passes unchanged.
  """
  try:
    pathlib.Path(path).read_bytes()
  except (OSError, ValueError) as error:  # ValueError: a null byte in the path.
    raise UserError(
        f"the config file {os.fspath(path)!r} cannot be read: {getattr(error, 'strerror', error)}.") from error
  loader = importlib.machinery.SourceFileLoader(f"config_file_{pathlib.Path(path).stem}", os.fspath(path))
  module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(loader.name, loader, origin=loader.path))
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
  return config.unlock().lock()  # What is locked already would not lock sections that were put into it later.
