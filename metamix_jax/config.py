"""What a config may say: every field, its type and its range, checked before any device work.

Values live in configs/; here are only the rules. An unknown, missing or wrong field raises one sentence.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import ml_collections

from metamix_jax.errors import UserError
from metamix_jax.records import names


class Rule(NamedTuple):
  """What a field may hold: a test of the value, and the same in words."""

  holds: Callable[[Any], bool]
  words: str


def _is_int(value) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_bit_widths(value) -> bool:
  return (isinstance(value, tuple) and len(value) >= 2 and all(_is_int(b) and 2 <= b <= 8 for b in value)
          and list(value) == sorted(set(value)))


def _is_numbers(value) -> bool:
  return isinstance(value, tuple) and all(_is_number(v) for v in value)


def _is_targets(value) -> bool:
  """Different targets have different names, so they must not agree in all digits of a name."""
  numbers = value if isinstance(value, tuple) else (value,)
  return (bool(numbers) and all(_is_number(v) and v > 0 for v in numbers) and list(numbers) == sorted(numbers)
          and len(set(map(names.format_target, numbers))) == len(numbers))


def _is_range(value) -> bool:
  return isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value)) and 0 < value[0] <= value[1]


# What config.data.augmentation may say.
SHIFT, RANDOM_RESIZED_CROP = AUGMENTATIONS = ("shift", "random_resized_crop")

POSITIVE_INT = Rule(lambda v: _is_int(v) and v > 0, "an integer above 0")
COUNT = Rule(lambda v: _is_int(v) and v >= 0, "an integer, 0 or more")
POSITIVE = Rule(lambda v: _is_number(v) and v > 0, "a number above 0")
NOT_NEGATIVE = Rule(lambda v: _is_number(v) and v >= 0, "a number, 0 or more")
FRACTION = Rule(lambda v: _is_number(v) and 0 <= v < 1, "a number from 0 up to, not including, 1")
NAME = Rule(lambda v: isinstance(v, str) and bool(v), "a name")
OPTIONAL_PATH = Rule(lambda v: v is None or (isinstance(v, str) and bool(v)), "a path, or None")
BITS = Rule(lambda v: _is_int(v) and 2 <= v <= 8, "an integer from 2 to 8")
BIT_WIDTHS = Rule(_is_bit_widths, "at least two different integers from 2 to 8 in ascending order")
CHANNELS = Rule(_is_numbers, "a tuple of numbers, one for each image channel")
TARGETS = Rule(
    _is_targets, "a number above 0, or a tuple of such numbers in ascending order that differ in their first six "
    "digits")

BOOLEAN = Rule(lambda v: isinstance(v, bool), "True or False")
FLOAT_TYPE = Rule(lambda v: v in ("float32", "bfloat16"), "float32 or bfloat16")

RULES = {
    "seed": COUNT,
    "batch_size": POSITIVE_INT,
    "evaluation_batch_size": POSITIVE_INT,
    "reestimation_batches": POSITIVE_INT,
    "evaluate_every_epochs": COUNT,
    "log_every_seconds": POSITIVE,
    "bits_from": OPTIONAL_PATH,
    "checkpoints.every_steps": POSITIVE_INT,
    "checkpoints.max_to_keep": POSITIVE_INT,
    "compute_dtype": FLOAT_TYPE,
    "metrics.alarm_records": POSITIVE_INT,
    "metrics.every_steps": COUNT,
    "metrics.tensorboard": BOOLEAN,
    "data.name": NAME,
    "data.data_dir": OPTIONAL_PATH,
    "data.train_split": NAME,
    "data.evaluation_split": NAME,
    "data.image_size": POSITIVE_INT,
    "data.mean": CHANNELS,
    "data.deviation": CHANNELS,
    "data.augmentation": Rule(lambda v: v in AUGMENTATIONS, f"{' or '.join(AUGMENTATIONS)}"),
    "data.max_shift": COUNT,
    "data.crop_area": Rule(lambda v: _is_range(v) and v[1] <= 1, "two numbers, 0 < lowest <= highest <= 1"),
    "data.crop_aspect": Rule(_is_range, "two numbers, 0 < lowest <= highest"),
    "data.flip_probability": Rule(lambda v: _is_number(v) and 0 <= v <= 1, "a number from 0 to 1"),
    "data.evaluation_short_side": Rule(lambda v: v is None or (_is_int(v) and v > 0), "an integer above 0, or None"),
    "data.shuffle_buffer": POSITIVE_INT,
    "data.num_threads": COUNT,
    "data.corrupt_records": Rule(lambda v: v in ("stop", "skip"), "stop or skip"),
    "network.name": NAME,
    "network.synchronized_batch_norm": BOOLEAN,
    "quantization.candidate_bits": BIT_WIDTHS,
    "quantization.weight_bits": BITS,
    "quantization.fixed_bits": BITS,
    "quantization.step_size_floor": POSITIVE,
    "quantization.depthwise": Rule(lambda v: v in ("auto", "shifted", "native"), "auto, shifted or native"),
    "optimizer.conv_l2": NOT_NEGATIVE,
    "optimizer.max_gradient_norm": POSITIVE,
    "arch.target_gbops": TARGETS,
    "arch.train_targets": Rule(
        lambda v: v is None or _is_numbers(v), "a tuple of targets from arch.target_gbops, or None for all"),
    "arch.target_tolerance": FRACTION,
    "arch.relative_penalty_weight": NOT_NEGATIVE,
    "arch.initial_deviation": NOT_NEGATIVE,
    "arch.learning_rate": POSITIVE,
    "arch.final_learning_rate": NOT_NEGATIVE,
    "arch.beta1": FRACTION,
    "arch.beta2": FRACTION,
    "arch.l2": NOT_NEGATIVE,
    "teacher.name": NAME,
    "teacher.weights": OPTIONAL_PATH,
    "teacher.dtype": FLOAT_TYPE,
    "pretraining.weights": OPTIONAL_PATH,
    "pretraining.epochs": COUNT,
    "pretraining.learning_rate": POSITIVE,
    "bit_selection.epochs": POSITIVE_INT,
    "bit_selection.meta_only_epochs": COUNT,
    "bit_selection.learning_rate": POSITIVE,
    "stage_a.epochs": POSITIVE_INT,
    "stage_a.learning_rate": POSITIVE,
    "stage_b.epochs": POSITIVE_INT,
    "stage_b.learning_rate": POSITIVE,
}
# Fields of the networks themselves; models.create_network checks them against the module.
FREE_SECTIONS = ("network.options", "teacher.options")
# What config.teacher.name may say besides a network: the full-precision network that training starts from, or no
# teacher, which leaves the labels.
STUDENT, LABELS = "student", "labels"
# For config.teacher.weights: an untrained teacher, only good for trying a config out.
RANDOM_WEIGHTS = "random"


def flatten(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """{"section.field": value}; a free section stays one dict of plain values."""
  fields = {}
  for section, values in config.items():
    if not isinstance(values, ml_collections.ConfigDict):
      fields[section] = values
      continue
    for name, value in values.items():
      fields[f"{section}.{name}"] = value.to_dict() if isinstance(value, ml_collections.ConfigDict) else value
  return fields


def validate(config: ml_collections.ConfigDict) -> None:
  """Checks every field of a config by itself, and those that belong together.

  Raises:
    UserError: one sentence that names the field, its value and what is allowed.
  """
  fields = flatten(config)
  for section in FREE_SECTIONS:
    fields.pop(section, None)
  for name in fields:
    if name not in RULES:
      raise UserError(f"config.{name} is no field of a config; allowed are {', '.join(sorted(RULES))}.")
  for name, rule in RULES.items():
    if name not in fields:
      raise UserError(f"config.{name} is missing; it must be {rule.words}.")
    if not rule.holds(fields[name]):
      raise UserError(f"config.{name} is {fields[name]!r}; it must be {rule.words}.")
  if config.bit_selection.meta_only_epochs >= config.bit_selection.epochs:
    raise UserError(
        f"config.bit_selection.meta_only_epochs is {config.bit_selection.meta_only_epochs}; it must be below "
        f"config.bit_selection.epochs, {config.bit_selection.epochs}, or no bits are searched.")
  targets = names.targets(config)
  for target in config.arch.train_targets or ():
    if target not in targets:
      raise UserError(
          f"config.arch.train_targets names {target}; allowed are the targets of config.arch.target_gbops, "
          f"{', '.join(map(names.format_target, targets))}.")
  if config.bits_from is not None and len(targets) > 1:
    raise UserError(
        f"config.bits_from is {config.bits_from}, which holds the bits of one target; config.arch.target_gbops has "
        f"{len(targets)}, and must then be a number.")
  if config.pretraining.weights is None and config.pretraining.epochs == 0:
    raise UserError(
        "config.pretraining.epochs is 0 and config.pretraining.weights is None; give a file of weights, or at least 1 "
        "epoch.")
  short_side = config.data.evaluation_short_side
  if short_side is not None and short_side < config.data.image_size:
    raise UserError(
        f"config.data.evaluation_short_side is {short_side}; it must be at least config.data.image_size, "
        f"{config.data.image_size}, or None.")
  if config.data.augmentation == SHIFT and config.data.max_shift >= config.data.image_size:
    raise UserError(
        f"config.data.max_shift is {config.data.max_shift}; it must be below config.data.image_size, "
        f"{config.data.image_size}.")
  if config.teacher.name not in (STUDENT, LABELS) and config.teacher.weights is None:
    raise UserError(
        f"config.teacher.weights is None; a teacher of its own, {config.teacher.name}, needs a file of weights (or "
        f"{RANDOM_WEIGHTS!r}, to try a config out).")


def check_batch_size(name: str, batch_size: int, num_devices: int, num_images: int | None = None) -> None:
  """Raises UserError if the devices do not divide a batch size, or it exceeds the training images."""
  if batch_size % num_devices:
    raise UserError(
        f"config.{name} is {batch_size}, which {num_devices} devices do not divide; allowed are multiples of "
        f"{num_devices}.")
  if num_images is not None and batch_size > num_images:
    raise UserError(f"config.{name} is {batch_size}; the training split has only {num_images} images.")


def check_target(target_gbops: float, attainable: tuple[float, float]) -> None:
  """Raises UserError if a target in GBOPs lies outside what the network can reach."""
  low, high = attainable
  if not low <= target_gbops <= high:
    raise UserError(
        f"config.arch.target_gbops is {target_gbops:.6g}; this network reaches {low:.6g} to {high:.6g} GBOPs with "
        "the candidate bit-widths.")
