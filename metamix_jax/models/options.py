"""The rules of the options of this package's networks: which values config.network.options may have."""

from collections.abc import Callable
import math
from typing import Any, NamedTuple

from metamix_jax.errors import UserError
from metamix_jax.models.mobilenet_v2 import MobileNetV2
from metamix_jax.models.mobilenet_v3 import ACTIVATIONS, MobileNetV3
from metamix_jax.models.resnet import ResNet


class OptionRule(NamedTuple):
  """Holds the rule of an option: a test of its value, and the same rule in words."""

  holds: Callable[[Any], bool]
  words: str


def _is_count(value):
  return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value):
  return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_odd(value):
  return _is_count(value) and value % 2 == 1


def _is_flag(value):
  return isinstance(value, bool)


def _rows_of(*columns):
  """Returns a test of a tuple of rows, with a test of each column."""
  return lambda rows: isinstance(rows, tuple) and all(
      isinstance(row, tuple) and len(row) == len(columns)
      and all(holds(value) for holds, value in zip(columns, row, strict=True)) for row in rows)


COUNT = OptionRule(_is_count, "a positive integer")
ODD_COUNT = OptionRule(_is_odd, "a positive odd integer")
COUNTS = OptionRule(
    lambda v: isinstance(v, tuple) and all(map(_is_count, v)), "a tuple of positive integers, one for each stage")
FLAG = OptionRule(_is_flag, "True or False")
FACTOR = OptionRule(lambda v: _is_number(v) and 0 < v < math.inf, "a number above 0")
# At a rate of 1, dropout keeps nothing.
RATE = OptionRule(lambda v: _is_number(v) and 0 <= v < 1, "a number from 0 up to, not including, 1")
# Those of config.quantization.weight_bits.
WEIGHT_BITS = OptionRule(lambda v: v is None or (_is_count(v) and 2 <= v <= 8), "an integer from 2 to 8, or None")
V2_BLOCKS = OptionRule(
    _rows_of(_is_count, _is_count, _is_count, _is_count),
    "a tuple of rows, each of four positive integers: expansion factor, output channels, repeats, stride")
V3_BLOCKS = OptionRule(
    _rows_of(_is_odd, _is_count, _is_count, _is_flag, lambda v: isinstance(v, str) and v in ACTIVATIONS, _is_count),
    "a tuple of rows, each of six values: odd kernel size, expanded channels, output channels, True or False for "
    f"squeeze and excitation, activation ({' or '.join(map(repr, ACTIVATIONS))}), stride")

# By class, so that every name of a class in NETWORKS has its rules.
RULES: dict[Callable[..., Any], dict[str, OptionRule]] = {
    MobileNetV2: {
        "width_multiplier": FACTOR, "stem_stride": COUNT, "stem_channels": COUNT, "blocks": V2_BLOCKS,
        "last_channels": COUNT, "dropout_rate": RATE},
    MobileNetV3: {
        "blocks": V3_BLOCKS, "last_channels": COUNT, "stem_channels": COUNT, "stem_stride": COUNT,
        "dropout_rate": RATE, "penultimate_weight_bits": WEIGHT_BITS},
    ResNet: {
        "stages": COUNTS, "bottleneck": FLAG, "width": COUNT, "stem_kernel": ODD_COUNT, "stem_stride": COUNT,
        "stem_pool": FLAG},
}


def check_values(network: Callable[..., Any], options: dict[str, Any], section: str) -> None:
  """Checks the values of the options of a network.

  Args:
    network: its class; one without rules here may have any numbers, words and tuples of them.
    options: by the names of its fields.
    section: of the config, for the errors.

  Raises:
    UserError: a value that is neither number, word, None nor a tuple of them, or one that its rule does not allow.
  """
  if not all(map(_is_plain, options.values())):
    raise UserError(f"config.{section}.options is {options}; allowed are numbers, words and tuples of them.")
  rules = RULES.get(network, {})
  for name, value in options.items():
    if name in rules and not rules[name].holds(value):
      raise UserError(f"config.{section}.options.{name} is {value!r}; it must be {rules[name].words}.")


def _is_plain(value):
  """Tells whether JSON keeps a value, as config.json of a run does, and whether it has a hash."""
  return value is None or isinstance(value, (int, float, str)) or (
      isinstance(value, tuple) and all(map(_is_plain, value)))
