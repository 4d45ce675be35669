"""What a run works on: a checked config, its data set, its network, and the steps mapped over the devices."""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import logging
from typing import Any

import jax
import ml_collections
import numpy as np

from metamix_jax import config as config_rules
from metamix_jax.config import LABELS, RANDOM_WEIGHTS, STUDENT
from metamix_jax.errors import UserError
from metamix_jax.method.bops import attainable_range
from metamix_jax.models import create_network, pretrained
from metamix_jax.nn.batch_norm import check_batch_norm
from metamix_jax.nn.layers import QuantizationScheme, trace_layers
from metamix_jax.records import names, selected_bits
from metamix_jax.training import parallel
from metamix_jax.training.optimizers import weight_optimizer
from metamix_jax.training.state import Network
from metamix_jax.training.steps import AXIS

logger = logging.getLogger("metamix_jax")

HostBatches = Iterator[dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class TrainingContext:
  """What every phase needs and none changes.

  Attributes:
    config: a validated config.
    network: the network to train.
    teacher_network: a teacher of its own, or None.
    num_classes: of the data set.
    image_shape: (H, W, C).
    steps_per_epoch: full training batches in one epoch.
    train_epoch: (epoch number, first batch) -> its batches, uint8 images and int32 labels, of this process.
    evaluation_batches: the evaluation split, padded and masked.
    num_evaluation_batches: how many these are.
    skipped_records: records that could not be decoded; None where such a record is an error.
    data_description: what the run reads (data.describe), for records.workdir.check_data.
    programs: the steps, mapped over devices.
  """

  config: ml_collections.ConfigDict
  network: Network
  teacher_network: Network | None
  num_classes: int
  image_shape: tuple[int, int, int]
  steps_per_epoch: int
  train_epoch: Callable[..., HostBatches]
  evaluation_batches: Callable[[], HostBatches]
  num_evaluation_batches: int
  skipped_records: Any
  data_description: Mapping[str, Any]
  programs: parallel.Programs

  def place(self, batches: HostBatches) -> Iterator[dict[str, jax.Array]]:
    """Batches on the devices of this process, with a leading device axis, two ahead of their use."""
    return parallel.place_batches(batches, self.programs.devices)

  def replicate(self, state):
    """A state placed as the programs return it."""
    return parallel.replicate(state, self.programs.devices)

  def optimizer(self, learning_rate):
    """The weight-side optimiser of this config."""
    return weight_optimizer(
        learning_rate, conv_l2=self.config.optimizer.conv_l2,
        max_gradient_norm=self.config.optimizer.max_gradient_norm)


def prepare(config: ml_collections.ConfigDict) -> TrainingContext:
  """Checks a config and builds what the phases need; compiles nothing.

  Raises:
    UserError: one sentence naming what is wrong with the config.
  """
  config_rules.validate(config)
  for name in ("batch_size", "evaluation_batch_size"):
    config_rules.check_batch_size(name, config[name], jax.device_count())
  _check_networks(config)  # A wrong name is found before TensorFlow is loaded.

  from metamix_jax import data  # pylint: disable=g-import-not-at-top  Loads TensorFlow: seconds.
  splits = config.data.train_split, config.data.evaluation_split
  dataset = data.open_dataset(config.data.name, config.data.data_dir, splits)
  info = data.dataset_info(
      dataset, train_split=config.data.train_split, evaluation_split=config.data.evaluation_split)
  config_rules.check_batch_size("batch_size", config.batch_size, jax.device_count(), info.num_train)
  for name in ("mean", "deviation"):
    if len(config.data[name]) != info.channels:
      raise UserError(f"config.data.{name} is {config.data[name]}; the images have {info.channels} channels.")
  image_shape = (config.data.image_size, config.data.image_size, info.channels)
  network, teacher = build_networks(config, info.num_classes, info.channels)
  check_batch_norm(network.module, image_shape, AXIS)
  for target in names.targets(config):
    config_rules.check_target(target, attainable_range(network.layers))
  if config.bits_from is not None:
    selected_bits.read_selected_bits(config.bits_from, network.layers)

  skipped = data.SkippedRecords() if config.data.corrupt_records == "skip" else None
  augmentation = _augmentation(config.data)

  def reading(batch_size):
    return data.ReadOptions(
        batch_size // jax.process_count(), config.data.image_size, jax.process_index(), jax.process_count(),
        config.data.num_threads, skipped)

  def train_epoch(epoch, first_batch=0):
    return data.train_epoch(
        dataset, config.data.train_split, reading(config.batch_size), augmentation, seed=config.seed, epoch=epoch,
        shuffle_buffer=config.data.shuffle_buffer, first_batch=first_batch)

  def evaluation_batches():
    return data.evaluation_batches(
        dataset, config.data.evaluation_split, reading(config.evaluation_batch_size),
        short_side=config.data.evaluation_short_side)

  for split in splits:
    data.check_records(dataset, split, reading(1))
  logger.info("data: %s", data.describe_in_words(dataset, splits))
  return TrainingContext(
      config, network, teacher, info.num_classes, image_shape, info.num_train // config.batch_size, train_epoch,
      evaluation_batches, -(-info.num_evaluation // config.evaluation_batch_size), skipped,
      data.describe(dataset, splits), parallel.make_programs())


def build_networks(
    config: ml_collections.ConfigDict, num_classes: int, channels: int
) -> tuple[Network, Network | None]:
  """The network to train and, where the config names one of its own, the teacher's.

  Args:
    config: a validated config.
    num_classes: outputs.
    channels: of the images.

  Raises:
    UserError: one sentence naming what is wrong with a network's name or options.
  """
  scheme = _quantization_scheme(config)
  module = create_network(config.network.name, num_classes, scheme, config.network.options.to_dict())
  layers = trace_layers(module, (config.data.image_size, config.data.image_size, channels))
  network = Network(
      module, layers, config.data.mean, config.data.deviation, config.quantization.step_size_floor,
      config.compute_dtype)
  if config.teacher.name in (STUDENT, LABELS):
    return network, None
  module = create_network(config.teacher.name, num_classes, scheme, config.teacher.options.to_dict(), "teacher")
  return network, dataclasses.replace(network, module=module, layers=())


def networks_without_data(config: ml_collections.ConfigDict) -> tuple[Network, Network | None]:
  """As `build_networks`, from a config alone; the data set need not be there.

  Raises:
    UserError: one sentence naming what is wrong with the config.
  """
  config_rules.validate(config)
  from metamix_jax import data  # pylint: disable=g-import-not-at-top  Loads TensorFlow: seconds.
  return build_networks(config, *data.classes_and_channels(
      config.data.name, config.data.data_dir, (config.data.train_split, config.data.evaluation_split)))


def _augmentation(section):
  """What a config's data section says of training images."""
  from metamix_jax import data  # pylint: disable=g-import-not-at-top  Loads TensorFlow: seconds.
  if section.augmentation == config_rules.RANDOM_RESIZED_CROP:
    return data.RandomResizedCrop(section.crop_area, section.crop_aspect, section.flip_probability)
  return data.Shift(section.max_shift, section.flip_probability)


def _quantization_scheme(config):
  section = config.quantization
  return QuantizationScheme(
      section.candidate_bits, section.weight_bits, section.fixed_bits, axis_name=AXIS, depthwise=section.depthwise,
      synchronized_batch_norm=config.network.synchronized_batch_norm)


def _check_networks(config):
  """The names, options and weight files of student and teacher, one sentence for what is wrong."""
  scheme = _quantization_scheme(config)
  for section, weights in (("network", config.pretraining.weights), ("teacher", config.teacher.weights)):
    if section == "teacher" and config.teacher.name in (STUDENT, LABELS):
      continue
    create_network(config[section].name, 2, scheme, config[section].options.to_dict(), section)
    if weights is not None and weights != RANDOM_WEIGHTS:
      pretrained.check_exists(weights, config[section].name)
