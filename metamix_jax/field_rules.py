"""What the rules of a config are made of: kinds of values, each with its test and its words."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from metamix_jax.records import names

# Limits of float32 (smallest normal number, largest number, last number below 1), of int32 and of uint32.
FLOAT_TINY, FLOAT_MAX, BELOW_ONE = 2.0**-126, (2 - 2.0**-23) * 2.0**127, 1 - 2.0**-24
INT_MAX, UINT_MAX = 2**31 - 1, 2**32 - 1


class Rule(NamedTuple):
  """Holds the rule of a field: a test of its value, and the same rule in words."""

  holds: Callable[[Any], bool]
  words: str


def is_int(value: Any, low: int, high: int) -> bool:
  """Tells whether a value is an integer in a range; a bool is not."""
  return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_number(value: Any, low: float = -FLOAT_MAX, high: float = FLOAT_MAX) -> bool:
  """Tells whether a value is a number in a range; a bool, NaN or an infinity is not."""
  return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def is_bit_widths(value: Any, least: int = 2) -> bool:
  """Tells whether a value is a tuple of at least `least` bit-widths in ascending order."""
  return (isinstance(value, tuple) and len(value) >= least and all(is_int(b, 2, 8) for b in value)
          and list(value) == sorted(set(value)))


def is_layer_bits(value: Any) -> bool:
  """Tells whether a value maps patterns of layer names to bits, as config.quantization.layer_bits does."""
  return isinstance(value, Mapping) and bool(value) and all(
      isinstance(pattern, str) and bool(pattern) and (bits is None or is_int(bits, 2, 8) or is_bit_widths(bits, 1))
      for pattern, bits in value.items())


def is_numbers(value: Any, low: float = -FLOAT_MAX) -> bool:
  """Tells whether a value is a tuple of numbers, each at least `low`."""
  return isinstance(value, tuple) and all(is_number(v, low) for v in value)


def is_targets(value: Any) -> bool:
  """Tells whether a value is one target or an ascending tuple; the six digits of their names must differ."""
  numbers = value if isinstance(value, tuple) else (value,)
  return (bool(numbers) and is_numbers(numbers, FLOAT_TINY) and list(numbers) == sorted(numbers)
          and len(set(map(names.format_target, numbers))) == len(numbers))


def is_range(value: Any, high: float = FLOAT_MAX) -> bool:
  """Tells whether a value is two numbers, 0 < lowest <= highest <= `high`."""
  return is_numbers(value, FLOAT_TINY) and len(value) == 2 and value[0] <= value[1] <= high


def integer(low: int, high: int) -> Rule:
  """Returns the rule of an integer in a range."""
  return Rule(lambda v: is_int(v, low, high), f"an integer from {low} to {high}")


def one_of(*words: str) -> Rule:
  """Returns the rule of one of several words."""
  return Rule(lambda v: isinstance(v, str) and v in words, f"{', '.join(words[:-1])} or {words[-1]}")


def optional(rule: Rule) -> Rule:
  """Returns a rule that also allows None."""
  return Rule(lambda v: v is None or rule.holds(v), f"{rule.words}, or None")


# Values of config.data.augmentation.
SHIFT, RANDOM_RESIZED_CROP = AUGMENTATIONS = ("shift", "random_resized_crop")

POSITIVE_INT = integer(1, INT_MAX)
COUNT = integer(0, INT_MAX)
BATCH_SIZE = integer(1, 2**20)
IMAGE_SIZE = integer(1, 2**14)
# With 20,000 steps in an epoch, the number of steps of a phase still fits an int32.
EPOCHS, EPOCHS_OR_NONE = integer(1, 100_000), integer(0, 100_000)
BITS = integer(2, 8)
POSITIVE = Rule(lambda v: is_number(v, FLOAT_TINY), "a number above 0 that float32 holds")
NOT_NEGATIVE = Rule(lambda v: is_number(v, 0), "a number, 0 or more, that float32 holds")
FRACTION = Rule(lambda v: is_number(v, 0, BELOW_ONE), "a number from 0 up to, not including, 1")
NAME = Rule(lambda v: isinstance(v, str) and bool(v), "a name")
COST = Rule(lambda v: NAME.holds(v) and "\0" not in v, "bops, activation_bytes, or a path of a CSV file")
LIMITS = optional(Rule(
    lambda v: isinstance(v, tuple) and bool(v) and all(NAME.holds(text) and "\0" not in text for text in v),
    "a tuple of COST=VALUE, such as ('peak_activation_bytes=600',)"))
OPTIONAL_PATH = optional(Rule(lambda v: NAME.holds(v) and "\0" not in v, "a path"))
BIT_WIDTHS = Rule(is_bit_widths, "at least two different integers from 2 to 8 in ascending order")
TARGETS = Rule(
    is_targets, "a number above 0, or a tuple of such numbers in ascending order that differ in their first six "
    "digits")
LAYER_BITS = optional(Rule(
    is_layer_bits, "a dict of patterns of layer names, each with a tuple of ascending integers from 2 to 8, one such "
    "integer, or None for full precision"))
BOOLEAN = Rule(lambda v: isinstance(v, bool), "True or False")
FLOAT_TYPE = one_of("float32", "bfloat16")
