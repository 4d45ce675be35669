"""The one class for mistakes in a user's input."""


class UserError(ValueError):
  """Reports a mistake in the user's input: a config field, a file, a folder or a flag.

  The message is one sentence that names the field or file, its value and what is allowed. Commands print it without a
  traceback and end with status 2 (command_line.exit_on_user_error). An OSError that names a path ends them in the same
  way, with a sentence of the path and the reason; code that opens files need not turn it into a UserError. Every other
  exception is a programming error and keeps its traceback.
  """
