"""What the commands share: flags, and errors in one sentence with status 2."""

import ast
from collections.abc import Callable
import os
import sys
from typing import NoReturn

from absl import flags


def stop(program: str, error: Exception | str) -> NoReturn:
  """Prints one sentence to stderr and ends the process with status 2."""
  print(f"{program}: {error}", file=sys.stderr)
  sys.exit(2)


def flags_parser(program: str) -> Callable[[list[str]], list[str]]:
  """For absl's app.run: a sentence instead of a traceback for a flag or a config field that there is not."""
  def parse(argv):
    sys.path.insert(0, os.getcwd())  # Where `python -m` finds a network of the user's own, scripts find it too.
    try:
      return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
      text = str(error)
      if text[:1] in ("'", '"'):  # ml_collections wraps a KeyError, whose str() is the repr of its text.
        text = ast.literal_eval(text)
      # A config file that raises arrives with its traceback; the error itself stands in the last line.
      stop(program, [line for line in text.splitlines() if line.strip()][-1].removeprefix("ValueError: "))

  return parse
