"""The rules of a config: every field with its type and range, checked before any device work.

configs/ has the values; this file has only the rules, and field_rules.py what they are made of. An unknown, missing or
wrong field raises UserError with one sentence.
"""

from collections.abc import Callable, Iterable

import ml_collections

from metamix_jax.config_file import flatten
from metamix_jax.errors import UserError
from metamix_jax.field_rules import (
    AUGMENTATIONS,
    BATCH_SIZE,
    BIT_WIDTHS,
    BITS,
    BOOLEAN,
    COST,
    COUNT,
    EPOCHS,
    EPOCHS_OR_NONE,
    FLOAT_TINY,
    FLOAT_TYPE,
    FRACTION,
    IMAGE_SIZE,
    LAYER_BITS,
    LIMITS,
    NAME,
    NOT_NEGATIVE,
    OPTIONAL_PATH,
    POSITIVE,
    POSITIVE_INT,
    SHIFT,
    TARGETS,
    UINT_MAX,
    Rule,
    integer,
    is_number,
    is_numbers,
    is_range,
    one_of,
    optional,
)
from metamix_jax.records import names

RULES = {
    "seed": integer(0, UINT_MAX),
    "batch_size": BATCH_SIZE,
    "evaluation_batch_size": BATCH_SIZE,
    "reestimation_batches": POSITIVE_INT,
    "evaluate_every_epochs": COUNT,
    "log_every_seconds": POSITIVE,
    "bits_from": OPTIONAL_PATH,
    "meta_state_from": OPTIONAL_PATH,
    "checkpoints.every_steps": POSITIVE_INT,
    "checkpoints.max_to_keep": POSITIVE_INT,
    "compute_dtype": FLOAT_TYPE,
    "matmul_precision": one_of("default", "high", "highest"),
    "metrics.alarm_records": POSITIVE_INT,
    "metrics.every_steps": COUNT,
    "metrics.tensorboard": BOOLEAN,
    "data.name": NAME,
    "data.data_dir": OPTIONAL_PATH,
    "data.repeat_epochs": optional(POSITIVE_INT),
    "data.train_split": NAME,
    "data.evaluation_split": NAME,
    "data.image_size": IMAGE_SIZE,
    "data.mean": Rule(is_numbers, "a tuple of numbers, one for each image channel"),
    "data.std": Rule(lambda v: is_numbers(v, FLOAT_TINY), "a tuple of numbers above 0, one for each image channel"),
    "data.augmentation": one_of(*AUGMENTATIONS),
    "data.max_shift": COUNT,
    "data.crop_area": Rule(lambda v: is_range(v, 1), "two numbers, 0 < lowest <= highest <= 1"),
    "data.crop_aspect": Rule(is_range, "two numbers, 0 < lowest <= highest"),
    "data.flip_probability": Rule(lambda v: is_number(v, 0, 1), "a number from 0 to 1"),
    "data.evaluation_short_side": optional(IMAGE_SIZE),
    # TensorFlow allocates every place of the buffer, and starts every thread, at once.
    "data.shuffle_buffer": integer(1, 10**7),
    "data.num_threads": integer(0, 4096),
    "data.corrupt_records": one_of("stop", "skip"),
    "network.name": NAME,
    "network.synchronized_batch_norm": BOOLEAN,
    "quantization.candidate_bits": BIT_WIDTHS,
    "quantization.candidate_weight_bits": optional(BIT_WIDTHS),
    "quantization.weight_bits": BITS,
    "quantization.fixed_bits": BITS,
    "quantization.layer_bits": LAYER_BITS,
    "quantization.step_size_floor": POSITIVE,
    "quantization.depthwise": one_of("auto", "shifted", "native"),
    "optimizer.beta1": FRACTION,
    "optimizer.beta2": FRACTION,
    "optimizer.epsilon": POSITIVE,
    "optimizer.conv_l2": NOT_NEGATIVE,
    "optimizer.max_gradient_norm": POSITIVE,
    "arch.cost": COST,
    "arch.at_most": LIMITS,
    "arch.multiplier_learning_rate": POSITIVE,
    "arch.target_gbops": TARGETS,
    "arch.train_targets": Rule(
        lambda v: v is None or is_numbers(v), "a tuple of targets from arch.target_gbops, or None for all"),
    "arch.target_tolerance": FRACTION,
    "arch.penalty_weight": optional(NOT_NEGATIVE),
    "arch.relative_penalty_weight": optional(NOT_NEGATIVE),
    "arch.initial_std": NOT_NEGATIVE,
    "arch.learning_rate": POSITIVE,
    "arch.final_learning_rate": NOT_NEGATIVE,
    "arch.beta1": FRACTION,
    "arch.beta2": FRACTION,
    "arch.epsilon": POSITIVE,
    "arch.l2": NOT_NEGATIVE,
    "teacher.name": NAME,
    "teacher.weights": OPTIONAL_PATH,
    "teacher.dtype": FLOAT_TYPE,
    "teacher.kept_targets": OPTIONAL_PATH,
    "teacher.kept_classes": optional(integer(1, 2**16 - 2)),
    "teacher.kept_gigabytes": POSITIVE,
    "pretraining.weights": OPTIONAL_PATH,
    "pretraining.new_classifier": BOOLEAN,
    "pretraining.epochs": EPOCHS_OR_NONE,
    "pretraining.learning_rate": POSITIVE,
    "bit_selection.epochs": EPOCHS,
    "bit_selection.meta_only_epochs": EPOCHS_OR_NONE,
    "bit_selection.learning_rate": POSITIVE,
    "stage_a.epochs": EPOCHS,
    "stage_a.learning_rate": POSITIVE,
    "stage_b.epochs": EPOCHS,
    "stage_b.learning_rate": POSITIVE,
}
# Fields of the networks themselves; models.create_network checks them against the module.
FREE_SECTIONS = ("network.options", "teacher.options")
# Values of config.teacher.name besides a network: the full-precision network after pretraining, or no teacher but the
# labels.
STUDENT, LABELS = "student", "labels"
# A value of config.teacher.weights: an untrained teacher, to try a config out.
RANDOM_WEIGHTS = "random"


def validate(config: ml_collections.ConfigDict) -> None:
  """Checks every field of a config alone, then fields that depend on each other.

  Raises:
    UserError: one sentence that names the field, its value and what is allowed.
  """
  fields = flatten(config)
  for section in FREE_SECTIONS:
    options = fields.pop(section, None)
    if not isinstance(options, dict):
      raise UserError(f"config.{section} is {options!r}; it must be a ConfigDict.")
  for name in fields:
    if name not in RULES:
      raise UserError(unknown_field(name, RULES))
  for name, rule in RULES.items():
    if name not in fields:
      raise UserError(f"config.{name} is missing; it must be {rule.words}.")
    if not rule.holds(fields[name]):
      raise UserError(f"config.{name} is {fields[name]!r}; it must be {rule.words}.")
  for check in CROSS_FIELD_CHECKS:
    sentence = check(config)
    if sentence is not None:
      raise UserError(sentence)


def unknown_field(name: str, known: Iterable[str]) -> str:
  """Returns the sentence for an unknown field; it lists the fields of the section, or all fields without one.

  Args:
    name: "section.field".
    known: names of the existing fields.
  """
  section = name.rpartition(".")[0]
  beside = [other for other in known if section and other.startswith(f"{section}.")]
  return f"unknown config field {name}; known fields are {', '.join(sorted(beside or known))}."


def _bits_are_searched(config):
  section = config.bit_selection
  if config.bits_from is None and section.meta_only_epochs >= section.epochs:
    return (f"config.bit_selection.meta_only_epochs is {section.meta_only_epochs}; it must be below "
            f"config.bit_selection.epochs, {section.epochs}, or no bits are searched.")


def _trained_targets_are_targets(config):
  targets = names.targets(config)
  for target in config.arch.train_targets or ():
    if target not in targets:
      return (f"config.arch.train_targets names {target}; allowed are the targets of config.arch.target_gbops, "
              f"{', '.join(map(names.format_target, targets))}.")


def _given_bits_fit(config):
  count = len(names.targets(config))
  if config.bits_from is not None and count > 1:
    return (f"config.bits_from is {config.bits_from}, which holds the bits of one target; config.arch.target_gbops has "
            f"{count}, and must then be a number.")


def _one_penalty_weight(config):
  given = config.arch.penalty_weight, config.arch.relative_penalty_weight
  if given.count(None) != 1:
    return (f"config.arch.penalty_weight is {given[0]} and config.arch.relative_penalty_weight is {given[1]}; one of "
            "them must be a number, and the other None.")


def _weights_are_given_or_trained(config):
  if config.meta_state_from is None and config.pretraining.weights is None and config.pretraining.epochs == 0:
    return ("config.pretraining.epochs is 0 and config.pretraining.weights is None; give a file of weights, or at "
            "least 1 epoch.")


def _new_classifier_is_trained(config):
  section = config.pretraining
  if section.new_classifier and (section.weights is None or section.epochs == 0):
    return (f"config.pretraining.new_classifier is True, with weights {section.weights!r} and epochs {section.epochs}; "
            "it needs a file of weights to start from, and at least 1 epoch to train the new classifier.")


def _evaluation_crop_fits(config):
  short_side, image_size = config.data.evaluation_short_side, config.data.image_size
  if short_side is not None and short_side < image_size:
    return (f"config.data.evaluation_short_side is {short_side}; it must be at least config.data.image_size, "
            f"{image_size}, or None.")


def _shift_stays_inside(config):
  shift, size = config.data.max_shift, config.data.image_size
  if config.data.augmentation == SHIFT and shift >= size:
    return f"config.data.max_shift is {shift}; it must be below config.data.image_size, {size}."


def _teacher_has_weights(config):
  if config.teacher.name not in (STUDENT, LABELS) and config.teacher.weights is None:
    return (f"config.teacher.weights is None; a teacher of its own, {config.teacher.name}, needs a file of weights (or "
            f"{RANDOM_WEIGHTS!r}, to try a config out).")


def _weights_have_a_teacher(config):
  """A file for a teacher that the config does not name would be ignored."""
  section = config.teacher
  if section.name not in (STUDENT, LABELS):
    return None
  for field, given in (("weights", section.weights), ("options", section.options.to_dict() or None)):
    if given is not None:
      return (f"config.teacher.{field} is {given!r} and config.teacher.name is {section.name!r}, which has none; give"
              " the name of the teacher's network, or None.")
  if section.name == LABELS and section.kept_targets is not None:
    return (f"config.teacher.kept_targets is {section.kept_targets!r} and config.teacher.name is {LABELS!r}; labels"
            " are not kept, so it must be None.")


def _kept_classes_are_kept(config):
  section = config.teacher
  if section.kept_classes is not None and section.kept_targets is None:
    return (f"config.teacher.kept_classes is {section.kept_classes} and config.teacher.kept_targets is None; it must "
            "then be a folder, or kept_classes None.")


def _weights_can_be_searched(config):
  section, arch = config.quantization, config.arch
  if section.candidate_weight_bits is None:
    return None
  if section.weight_bits not in section.candidate_weight_bits:
    return (f"config.quantization.weight_bits is {section.weight_bits}; it must be one of "
            f"config.quantization.candidate_weight_bits, {section.candidate_weight_bits}, for the uniform bit-widths.")
  if arch.cost != "bops" or arch.at_most is not None:
    return (f"config.arch.cost is {arch.cost!r} and config.arch.at_most is {arch.at_most!r}; with "
            "config.quantization.candidate_weight_bits they must be 'bops' and None.")


# Checks of fields that depend on each other: each returns a sentence, or None.
CROSS_FIELD_CHECKS: tuple[Callable[[ml_collections.ConfigDict], str | None], ...] = (
    _bits_are_searched, _trained_targets_are_targets, _given_bits_fit, _one_penalty_weight,
    _weights_are_given_or_trained, _new_classifier_is_trained, _evaluation_crop_fits, _shift_stays_inside,
    _teacher_has_weights, _weights_have_a_teacher, _kept_classes_are_kept, _weights_can_be_searched)


def check_batch_size(name: str, batch_size: int, num_devices: int, num_images: int | None = None) -> None:
  """Raises UserError if the devices do not divide a batch size, or if it exceeds the number of training images."""
  if batch_size % num_devices:
    raise UserError(
        f"config.{name} is {batch_size}, which {num_devices} devices do not divide; allowed are multiples of "
        f"{num_devices}.")
  if num_images is not None and batch_size > num_images:
    raise UserError(f"config.{name} is {batch_size}; the training split has only {num_images} images.")


def check_target(
    target: float, attainable: tuple[float, float], unit: str = "GBOPs", name: str = "config.arch.target_gbops"
) -> None:
  """Raises UserError if a target lies outside the attainable range (lowest, highest).

  Args:
    target: the target, in `unit`.
    attainable: the lowest and the highest cost of the network, in `unit`.
    unit: of the cost.
    name: of the field or flag that has the target.
  """
  low, high = attainable
  if not low <= target <= high:
    raise UserError(
        f"{name} is {target:.6g}; this network reaches {low:.6g} to {high:.6g} {unit} with the candidate bit-widths.")
