"""Shared parts of the commands: flags, config files, and a user's mistake as one sentence with status 2."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import os
import pathlib
import re
import sys
from typing import NoReturn

from absl import flags
import ml_collections
from ml_collections import config_flags

from metamix_jax.config import unknown_field
from metamix_jax.config_file import load_config
from metamix_jax.errors import UserError
from metamix_jax.records.paths import local_folder, local_path

_CONFIG_FLAG = "config"


def stop(program: str, error: Exception | str) -> NoReturn:
  """Prints one sentence to stderr and ends the process with status 2."""
  print(f"{program}: {error}", file=sys.stderr)
  sys.exit(2)


@contextlib.contextmanager
def exit_on_user_error(program: str) -> Iterator[None]:
  """Ends the process with one sentence and status 2 at a UserError, and at a file that cannot be read or written.

  Every other exception passes. What the command prints is lost where nobody takes it, and the command goes on: for a
  pipe whose reader is gone (`| head`), a closed stdout, a full disk. Use it as a decorator of a command's main, or in a
  with statement.
  """
  with contextlib.ExitStack() as stack:
    for stream, redirect in (("stdout", contextlib.redirect_stdout), ("stderr", contextlib.redirect_stderr)):
      stack.enter_context(redirect(stack.enter_context(_Output.of(getattr(sys, stream)))))
    try:
      yield
    except UserError as error:
      stop(program, error)
    except OSError as error:
      if error.filename is None:
        raise
      stop(program, f"{os.fsdecode(error.filename)!r} cannot be read or written ({error.strerror}).")


class _Output:
  """A text stream that drops what the operating system does not take."""

  def __init__(self, stream):
    self._stream = stream

  def __getattr__(self, name):
    return getattr(self._stream, name)

  @classmethod
  @contextlib.contextmanager
  def of(cls, stream):
    """Yields the output on a stream; None, which Python has in place of a closed one, takes nothing."""
    with open(os.devnull, "w") if stream is None else contextlib.nullcontext(stream) as taken:
      output = cls(taken)
      try:
        yield output
      finally:
        output.flush()

  def write(self, text):
    try:
      self._stream.write(text)
    except OSError:
      self._drop()
    return len(text)

  def flush(self):
    try:
      self._stream.flush()
    except OSError:
      self._drop()

  def _drop(self):
    """Turns the descriptor to the null device, which also takes what the stream holds back and what libraries write."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, self._stream.fileno())
    os.close(null)


def folder_of_run(argv: Sequence[str]) -> pathlib.Path:
  """Returns the only argument of a command that takes the folder of a run.

  Args:
    argv: the name of the program and its arguments, without flags.

  Raises:
    UserError: another number of arguments is given, or it is no folder of this machine.
  """
  if len(argv) != 2:
    raise UserError(f"{len(argv) - 1} folders are given; it takes one, the --workdir of a run.")
  return local_folder(argv[1])


def define_path(name: str, default: os.PathLike | None, help_text: str) -> flags.FlagHolder:
  """Defines a flag for a local file or folder; its value is a pathlib.Path, or None where `default` is None.

  Args:
    name: of the flag.
    default: its value where it is not given.
    help_text: of the flag.
  """
  return flags.DEFINE(
      _LocalPath(f"--{name}"), name, None if default is None else os.fspath(default), help_text)


class _LocalPath(flags.ArgumentParser):
  """Reads a path of this machine; a URL or an empty text is a UserError."""

  def __init__(self, flag):
    super().__init__()
    self._flag = flag

  def parse(self, argument):
    return local_path(argument, self._flag)

  def flag_type(self):
    return "path"


def numbers_of(values: Sequence[str], name: str) -> list[int]:
  """Returns the whole numbers, 1 or more, of a list flag; raises UserError that names the flag for anything else."""
  if not values or not all(value.isdecimal() and int(value) > 0 for value in values):
    raise UserError(f"{name} is {','.join(values)!r}; it must be whole numbers above 0, with commas between them.")
  return [int(value) for value in values]


def flags_parser(program: str, default_config: os.PathLike | None = None) -> Callable[[list[str]], list[str]]:
  """Returns the flags_parser of absl's app.run for a command, with or without a flag --config.

  `default_config` is the file of a --config that is not given; its fields can be set all the same.
  A wrong flag, a wrong config field or a UserError of the config file ends the process with one sentence and status 2.
  Any other exception of the config file keeps its traceback. In fields of one value the word None means None.
  """
  def parse(argv):
    try:
      sys.path.insert(0, os.getcwd())  # Where `python -m` finds a network of the user's own, scripts find it too.
    except FileNotFoundError:
      stop(program, "the current folder was deleted; change to another one.")
    loaded = _Loaded()
    if _CONFIG_FLAG in flags.FLAGS:
      flags.FLAGS[_CONFIG_FLAG].parser = _ConfigFileParser(loaded=loaded)
      config_flags.register_flag_parser_for_type(str, _StringOrNone())
      config_flags.register_flag_parser_for_type(int, _IntegerOrNone())
      config_flags.register_flag_parser_for_type(float, _NumberOrNone())
    if default_config is not None and not any(re.match(rf"--?{_CONFIG_FLAG}(=|$)", argument) for argument in argv):
      argv = [*argv[:1], f"--{_CONFIG_FLAG}={os.fspath(default_config)}", *argv[1:]]
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
