"""Batches decoded while training goes on, from records in a fixed order; records that cannot be decoded are named."""

from collections.abc import Callable, Iterator
import logging

import numpy as np
import tensorflow as tf

logger = logging.getLogger("metamix_jax")

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


def decoded_batches(
    records: Callable[[], tf.data.Dataset], convert: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], *, seed: int,
    batch_size: int, first_batch: int, skipped: SkippedRecords | None,
) -> Iterator[DecodedBatch]:
  """Decodes records and batches them, the same bytes whatever the number of threads and wherever it begins.

  Args:
    records: makes the data set of {"image", "label", "name", "position"}; `position`, int64, counts the records of
      all processes, and with `seed` gives each record its own random numbers.
    convert: (encoded image, int64 [2] seed) -> uint8 [H, W, C], from images.py.
    seed: 0 ... 2**63 - 1.
    batch_size: N, of this process.
    first_batch: batches left out at the beginning; their records are read, not decoded.
    skipped: takes the records that cannot be decoded, which are marked in the batch. None: the first one is an error.
      Marking costs about a fifth of the images per second.

  Raises:
    ValueError: a record cannot be decoded and `skipped` is None (the sentence names it), or a file cannot be read.
  """
  def to_pixels(record):
    return convert(record["image"], tf.stack([tf.constant(seed, tf.int64), record["position"]]))

  def start(batch_number):
    return records().skip(batch_number * batch_size)

  done = first_batch
  try:
    if skipped is not None:
      for images, labels, decoded, encoded, names in _marked(start(done), to_pixels, batch_size):
        for image, name in zip(encoded[~decoded], names[~decoded]):
          skipped.add(name.decode(), _reason(image))
        done += 1
        yield images, labels, decoded
      return
    dataset = start(done).map(
        lambda record: (to_pixels(record), tf.cast(record["label"], tf.int32)), tf.data.AUTOTUNE, deterministic=True)
    for images, labels in dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE).as_numpy_iterator():
      done += 1
      yield images, labels, np.ones(len(labels), bool)
  except tf.errors.InvalidArgumentError as error:
    # tf.data does not say which record it was: the batch is decoded once more, record by record.
    for _, _, decoded, encoded, names in _marked(start(done).take(batch_size), to_pixels, batch_size):
      if not decoded.all():
        first = np.argmin(decoded)
        raise ValueError(
            f"record {names[first].decode()} cannot be decoded ({_reason(encoded[first])}); repair it, or set"
            " config.data.corrupt_records to 'skip'.") from error
    raise
  except tf.errors.OpError as error:
    raise ValueError(f"the data set's files cannot be read: {error.message.splitlines()[0]}.") from error


def fill_gaps(batch: DecodedBatch) -> tuple[np.ndarray, np.ndarray]:
  """Images and labels of a training batch, those that could not be decoded replaced by the next that could.

  Raises:
    ValueError: none could be decoded.
  """
  images, labels, decoded = batch
  if decoded.all():
    return images, labels
  good = np.flatnonzero(decoded)
  if not len(good):
    raise ValueError(f"none of the {len(decoded)} records of a training batch can be decoded.")
  chosen = good[np.searchsorted(good, np.arange(len(decoded))) % len(good)]
  return images[chosen], labels[chosen]


def _marked(records, to_pixels, batch_size):
  """Iterator over batches (images, labels, decoded, encoded, names); zeros where an image cannot be decoded.

  `encoded` holds the bytes of just those. Each record goes through a data set of its own, where an error leaves
  nothing behind.
  """
  def decode(record):
    label = tf.cast(record["label"], tf.int32)

    def element(image, decoded, encoded):
      return tf.data.Dataset.from_tensors((image, label, decoded, encoded, record["name"]))

    good = tf.data.Dataset.from_tensors(record).map(
        lambda record: (to_pixels(record), label, True, "", record["name"])).ignore_errors()
    nothing = tf.zeros(good.element_spec[0].shape, tf.uint8)
    return good.concatenate(element(nothing, False, record["image"])).take(1)

  dataset = records.interleave(
      decode, cycle_length=tf.data.AUTOTUNE, block_length=1, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
  return dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE).as_numpy_iterator()


def _reason(encoded):
  """What TensorFlow says against an image, in a few words."""
  try:
    tf.io.decode_image(encoded)
  except tf.errors.InvalidArgumentError as error:
    return error.message.splitlines()[0].partition(" [Op:")[0].rstrip(".")
  return "its size or channels do not fit"
