"""The one class for mistakes in a user's input."""


class UserError(ValueError):
  """Reports a mistake in the user's input: a config field, a file, a folder or a flag.

  The message is one sentence that names the field or file, its value and what is allowed. Commands print it without a
  traceback and end with status 2; every other exception is a programming error and keeps its traceback.
  """
