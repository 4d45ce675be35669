"""Shared parts of the commands: flags, config files, and a user's mistake as one sentence with status 2."""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import os
import re
import sys
from typing import NoReturn

from absl import flags
import ml_collections
from ml_collections import config_flags

from metamix_jax.config import unknown_field
from metamix_jax.config_file import load_config
from metamix_jax.errors import UserError

_CONFIG_FLAG = "config"


def stop(program: str, error: Exception | str) -> NoReturn:
  """Prints one sentence to stderr and ends the process with status 2."""
  print(f"{program}: {error}", file=sys.stderr)
  sys.exit(2)


@contextlib.contextmanager
def exit_on_user_error(program: str) -> Iterator[None]:
  """Ends the process with one sentence and status 2 at a UserError; every other exception passes.

  Use it as a decorator of a command's main, or in a with statement.
  """
  try:
    yield
  except UserError as error:
    stop(program, error)


def flags_parser(program: str) -> Callable[[list[str]], list[str]]:
  """Returns the flags_parser of absl's app.run for a command, with or without a flag --config.

  A wrong flag, a wrong config field or a UserError of the config file ends the process with one sentence and status 2.
  Any other exception of the config file keeps its traceback. In fields of one value the word None means None.
  """
  def parse(argv):
    sys.path.insert(0, os.getcwd())  # Where `python -m` finds a network of the user's own, scripts find it too.
    loaded = _Loaded()
    if _CONFIG_FLAG in flags.FLAGS:
      flags.FLAGS[_CONFIG_FLAG].parser = _ConfigFileParser(loaded=loaded)
      config_flags.register_flag_parser_for_type(str, _StringOrNone())
      config_flags.register_flag_parser_for_type(int, _IntegerOrNone())
      config_flags.register_flag_parser_for_type(float, _NumberOrNone())
    try:
      return flags.FLAGS(argv)
    except Exception as caught:
      error = caught
    if loaded.error is not None:  # absl replaces a ValueError by one without its traceback.
      error = loaded.error
    elif unknown := _first_unknown_field(argv, loaded.config):
      stop(program, unknown)
    if isinstance(error, (UserError, flags.Error)):
      stop(program, " ".join(str(error).split()))
    raise error

  return parse


@dataclasses.dataclass
class _Loaded:
  """Holds the result of --config: a config, or an exception."""

  config: ml_collections.ConfigDict | None = None
  error: Exception | None = None


class _ConfigFileParser(flags.ArgumentParser):
  """Reads FILE or FILE:ARGUMENT as the config of that file."""

  def __init__(self, *, loaded):  # A keyword: absl shares a parser between calls with the same other arguments.
    super().__init__()
    self._loaded = loaded

  def parse(self, argument):
    path, _, config_argument = argument.partition(":")
    try:
      self._loaded.config = load_config(path, config_argument or None)
    except Exception as error:
      self._loaded.error = error
      raise
    return self._loaded.config

  def flag_type(self):
    return "config file"


class _StringOrNone(flags.ArgumentParser):
  """Reads a string, and the word None as None."""

  def parse(self, argument):
    return None if argument == "None" else super().parse(argument)


class _IntegerOrNone(flags.ArgumentParser):
  """Reads an integer, and the word None as None."""

  def parse(self, argument):
    return None if argument == "None" else flags.IntegerParser().parse(argument)


class _NumberOrNone(flags.ArgumentParser):
  """Reads a number, and the word None as None."""

  def parse(self, argument):
    return None if argument == "None" else flags.FloatParser().parse(argument)


def _first_unknown_field(argv, config):
  """Returns the sentence for the first --config.FIELD that the config does not have, or None."""
  known = list(_field_names(config or {}))
  for argument in argv[1:] if known else ():
    match = re.match(rf"--?(?:no)?{_CONFIG_FLAG}\.([^=]+)", argument)
    if match and match[1] not in known:
      return unknown_field(match[1], known)
  return None


def _field_names(config, prefix=""):
  """Yields "section.field" of all fields of a ConfigDict, and the names of its sections."""
  for name, value in config.items():
    yield f"{prefix}{name}"
    if isinstance(value, ml_collections.ConfigDict):
      yield from _field_names(value, f"{prefix}{name}.")
