"""Batches decoded while training goes on, from records in a fixed order; records that cannot be decoded are named."""

from collections.abc import Callable, Iterator
import dataclasses
import logging
import re

import numpy as np
import tensorflow as tf

from metamix_jax.cores import available_cores
from metamix_jax.errors import UserError

logger = logging.getLogger("metamix_jax")

# Decoded batches that wait in memory: enough to ride out a slow file, 77 MB at 256 images of 224 x 224.
BATCHES_AHEAD = 2

# (images uint8 [N, H, W, C], labels int32 [N], decoded bool [N]); fewer than N in the last one of an evaluation.
DecodedBatch = tuple[np.ndarray, np.ndarray, np.ndarray]


class SkippedRecords:
  """Remembers the records that could not be decoded, and logs each the first time.

  Attributes:
    names: of the records.
  """

  def __init__(self):
    self.names = set()

  def add(self, name: str, reason: str) -> None:
    """Counts a record once, however often it is met."""
    if name not in self.names:
      self.names.add(name)
      logger.warning("data: record %s cannot be decoded (%s); skipped, %d so far", name, reason, len(self.names))


@dataclasses.dataclass(frozen=True)
class Reading:
  """How and by whom a split is read; the batches do not depend on num_threads.

  Attributes:
    batch_size: images in a batch of this process.
    image_size: height and width of the images that come out, pixels.
    process_index: number of this process.
    process_count: number of processes.
    num_threads: for reading and decoding; 0: one for each core.
    skipped: takes the records that cannot be decoded; None: the first one is an error.
  """
  batch_size: int
  image_size: int
  process_index: int = 0
  process_count: int = 1
  num_threads: int = 0
  skipped: SkippedRecords | None = None


def decoded_batches(
    records: Callable[[bool], tf.data.Dataset], convert: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], reading: Reading,
    *, seed: int, first_batch: int = 0,
) -> Iterator[DecodedBatch]:
  """Decodes records and batches them, the same bytes whatever the number of threads and wherever it begins.

  Args:
    records: makes the data set of {"image", "label"}, with "name" if its argument is true.
    convert: (encoded image, int64 [2] seed) -> uint8 [H, W, C], from images.py.
    reading: batch size, process, threads, and what becomes of records that cannot be decoded. Going on behind them
      costs about a fifth of the images per second.
    seed: 0 ... 2**63 - 1; with a record's place in the order it gives each record its own random numbers.
    first_batch: batches left out at the beginning; their records are read, not decoded.

  Raises:
    UserError: a record cannot be decoded and none may be skipped (the sentence names it), or a file cannot be read.
  """
  # A fixed number: tf.data's tuner takes the first minutes to find it.
  at_once = reading.num_threads or available_cores()
  skipped = reading.skipped

  def to_pixels(number, record):
    position = number * reading.process_count + reading.process_index  # Among the records of all processes.
    image = convert(record["image"], tf.stack([tf.constant(seed, tf.int64), position]))
    return image, tf.cast(record["label"], tf.int32)

  def start(batch_number, *, named):
    return records(named).enumerate().skip(batch_number * reading.batch_size)

  done = first_batch
  try:
    if skipped is not None:
      for images, labels, decoded, encoded, names in _marked(
          start(done, named=True), to_pixels, reading.batch_size, at_once):
        for image, name in zip(encoded[~decoded], names[~decoded]):
          skipped.add(name.decode(), _reason(image))
        done += 1
        yield images, labels, decoded
      return
    dataset = start(done, named=False).map(to_pixels, at_once, deterministic=True).batch(reading.batch_size)
    for images, labels in dataset.prefetch(BATCHES_AHEAD).as_numpy_iterator():
      done += 1
      yield images, labels, np.ones(len(labels), bool)
  except tf.errors.InvalidArgumentError as error:
    # tf.data does not say which record it was: the batch is decoded once more, record by record.
    batch = start(done, named=True).take(reading.batch_size)
    for _, _, decoded, encoded, names in _marked(batch, to_pixels, reading.batch_size, at_once):
      if not decoded.all():
        first = np.argmin(decoded)
        raise UserError(
            f"record {names[first].decode()} cannot be decoded ({_reason(encoded[first])}); repair it, or set"
            " config.data.corrupt_records to 'skip'.") from error
    raise
  except tf.errors.OpError as error:
    raise UserError(f"the data set's files cannot be read: {error.message.splitlines()[0]}.") from error


def fill_gaps(batch: DecodedBatch) -> tuple[np.ndarray, np.ndarray]:
  """Images and labels of a training batch, those that could not be decoded replaced by the next that could.

  Raises:
    UserError: none could be decoded.
  """
  images, labels, decoded = batch
  if decoded.all():
    return images, labels
  good = np.flatnonzero(decoded)
  if not len(good):
    raise UserError(f"none of the {len(decoded)} records of a training batch can be decoded.")
  chosen = good[np.searchsorted(good, np.arange(len(decoded))) % len(good)]
  return images[chosen], labels[chosen]


def _marked(records, to_pixels, batch_size, at_once):
  """Iterator over batches (images, labels, decoded, encoded, names); zeros where an image cannot be decoded.

  `encoded` holds the bytes of just those. Each record goes through a data set of its own, where an error leaves
  nothing behind.
  """
  def decode(number, record):
    def one(image, label, decoded, encoded):
      return image, label, decoded, encoded, record["name"]

    good = tf.data.Dataset.from_tensors((number, record)).map(
        lambda number, record: one(*to_pixels(number, record), True, "")).ignore_errors()
    nothing = tf.zeros(good.element_spec[0].shape, tf.uint8)
    bad = tf.data.Dataset.from_tensors(one(nothing, tf.cast(record["label"], tf.int32), False, record["image"]))
    return good.concatenate(bad).take(1)

  dataset = records.interleave(
      decode, cycle_length=at_once, block_length=1, num_parallel_calls=at_once, deterministic=True)
  return dataset.batch(batch_size).prefetch(BATCHES_AHEAD).as_numpy_iterator()


def _reason(encoded):
  """What TensorFlow says against an image, in a few words."""
  try:
    tf.io.decode_image(encoded)
  except tf.errors.InvalidArgumentError as error:
    message = error.message.splitlines()[0].partition(" [Op:")[0].rstrip(".")
    return re.sub(r"^\{\{.*?\}\} ", "", message)  # Where in TensorFlow's graph it happened.
  return "its size or channels do not fit"
