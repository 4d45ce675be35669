"""The data of a run: the training epochs and the evaluation split that a config describes."""

from collections.abc import Iterator
import dataclasses
import logging
from typing import Any

import ml_collections
import tensorflow_datasets as tfds

from metamix_jax.data.datasets import DatasetInfo, dataset_info, describe, describe_in_words, open_dataset
from metamix_jax.data.pipeline import Batch, RandomResizedCrop, Shift, check_records, evaluation_batches, train_epoch
from metamix_jax.data.streaming import ReadOptions, SkippedRecords

logger = logging.getLogger("metamix_jax")


@dataclasses.dataclass(frozen=True)
class DataSource:
  """What the phases of a run read. A fork's own data is any object with the same properties and methods.

  Attributes:
    builder: the TFDS data set.
    info: its facts.
    section: of the config: config.data.
    seed: of orders and augmentation.
    batch_size: training images in a batch of all processes.
    evaluation_batch_size: evaluation images in a batch of all processes.
    process_index: number of this process.
    process_count: number of processes.
    skipped: the records that could not be decoded; None where such a record is an error.
  """

  builder: tfds.core.DatasetBuilder
  info: DatasetInfo
  section: ml_collections.ConfigDict
  seed: int
  batch_size: int
  evaluation_batch_size: int
  process_index: int
  process_count: int
  skipped: SkippedRecords | None

  @property
  def num_classes(self) -> int:
    """Number of classes."""
    return self.info.num_classes

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(H, W, C) of every image."""
    return (self.section.image_size, self.section.image_size, self.info.channels)

  @property
  def steps_per_epoch(self) -> int:
    """Whole training batches in one epoch."""
    return self.info.num_train // self.batch_size

  @property
  def num_evaluation_batches(self) -> int:
    """Batches of the evaluation split; the last one is padded."""
    return -(-self.info.num_evaluation // self.evaluation_batch_size)

  @property
  def description(self) -> dict[str, Any]:
    """What the run reads: names, version, classes and numbers of images, as datasets.describe has it."""
    return describe(self.builder, (self.section.train_split, self.section.evaluation_split))

  @property
  def num_skipped(self) -> int:
    """Records that this process could not decode."""
    return len(self.skipped.names) if self.skipped else 0

  def train_epoch(self, epoch: int, first_batch: int = 0) -> Iterator[Batch]:
    """Returns this process's part of the training batches of an epoch, from `first_batch` on (pipeline.train_epoch)."""
    return train_epoch(
        self.builder, self.section.train_split, self._read_options(self.batch_size), self._augmentation(),
        seed=self.seed, epoch=epoch, shuffle_buffer=self.section.shuffle_buffer, first_batch=first_batch)

  def evaluation_batches(self) -> Iterator[Batch]:
    """Returns this process's part of the evaluation split, padded and masked (pipeline.evaluation_batches)."""
    return evaluation_batches(
        self.builder, self.section.evaluation_split, self._read_options(self.evaluation_batch_size),
        short_side=self.section.evaluation_short_side)

  def _read_options(self, batch_size):
    return ReadOptions(
        batch_size // self.process_count, self.section.image_size, self.process_index, self.process_count,
        self.section.num_threads, self.skipped)

  def _augmentation(self):
    section = self.section
    if section.augmentation == "random_resized_crop":
      return RandomResizedCrop(section.crop_area, section.crop_aspect, section.flip_probability)
    return Shift(section.max_shift, section.flip_probability)


def open_source(config: ml_collections.ConfigDict, process_index: int, process_count: int) -> DataSource:
  """Opens the data set that a validated config names, prepares it where that is needed, and logs what it holds.

  Raises:
    UserError: the data set or one of its splits does not exist, its classes do not fit together, or its images
      cannot be used.
  """
  section = config.data
  splits = section.train_split, section.evaluation_split
  builder = open_dataset(section.name, section.data_dir, splits)
  info = dataset_info(builder, train_split=section.train_split, evaluation_split=section.evaluation_split)
  skipped = SkippedRecords() if section.corrupt_records == "skip" else None
  for split in splits:
    check_records(builder, split, ReadOptions(1, section.image_size, 0, 1, section.num_threads, skipped))
  logger.info("data: %s", describe_in_words(builder, splits))
  return DataSource(
      builder, info, section, config.seed, config.batch_size, config.evaluation_batch_size, process_index,
      process_count, skipped)
