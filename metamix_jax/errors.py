"""The one class for mistakes in a user's input."""


class UserError(ValueError):
  """A mistake in what the user gave: a config field, a file, a folder, a flag.

  The message is one sentence that names the field or file, its value and what is allowed. Commands print it without a
  traceback and end with status 2; every other exception is a programming error and keeps its traceback.
  """
