"""Decodes batches while training goes on, from records in a fixed order; names records that cannot be decoded."""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import logging
import re

import numpy as np
import tensorflow as tf

from metamix_jax.data.cores import available_cores
from metamix_jax.errors import UserError

logger = logging.getLogger("metamix_jax")

# Decoded batches that wait in memory: enough to ride out a slow file, 77 MB at 256 images of 224 x 224.
BATCHES_AHEAD = 2

# (encoded image, int64 [2] seed) -> uint8 [H, W, C].
Convert = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
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
class ReadOptions:
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
    records: Callable[[bool], tf.data.Dataset], convert: Convert, options: ReadOptions, *, seed: int,
    first_batch: int = 0,
) -> Iterator[DecodedBatch]:
  """Decodes records and batches them: the same bytes with any number of threads and from any first batch.

  Args:
    records: makes the data set of {"image", "label"}, with "name" if its argument is true.
    convert: (encoded image, int64 [2] seed) -> uint8 [H, W, C], from images.py.
    options: batch size, process, threads, and what becomes of records that cannot be decoded. Skipping them costs
      about a fifth of the images per second.
    seed: 0 ... 2**63 - 1; with a record's place in the order it gives each record its own random numbers.
    first_batch: batches left out at the beginning; their records are read, not decoded.

  Raises:
    UserError: a record cannot be decoded and none may be skipped (the sentence names it), or a file cannot be read.
  """
  decoder = _Decoder(records, convert, options, seed)
  skipped = options.skipped
  batches = decoder.strict(first_batch) if skipped is None else decoder.skipping(first_batch, skipped)
  with _readable_files():
    yield from batches


def check_records(
    records: Callable[[bool], tf.data.Dataset], convert: Convert, options: ReadOptions, num_classes: int, split: str
) -> None:
  """Decodes records until one succeeds, so that a split without any is found before anything is trained.

  Args:
    records: as for `decoded_batches`, here the records of the whole split.
    convert: as for `decoded_batches`.
    options: where none may be skipped, the first record must be decodable.
    num_classes: the label of that record must be below it.
    split: name of the split, for the sentence.

  Raises:
    UserError: no record can be decoded, or the first one cannot and none may be skipped, or it has no label; the
      sentence names it. Or a file cannot be read.
  """
  undecodable = []
  with _readable_files():
    for _, labels, decoded, encoded, names in _Decoder(records, convert, options, seed=0).marked(0, batch_size=1):
      name = _printable(names[0])
      if decoded.all():
        if not 0 <= labels[0] < num_classes:
          raise UserError(
              f"record {name} of split {split!r} has label {labels[0]}, which is not a class (0 to {num_classes - 1}):"
              " use a split with labels.")
        return
      undecodable.append((name, _reason(encoded[0])))
      if options.skipped is None:
        raise _undecodable(*undecodable[0])
  name, reason = undecodable[0]
  raise UserError(
      f"none of the {len(undecodable)} records of split {split!r} can be decoded; the first is {name} ({reason}).")


@contextlib.contextmanager
def _readable_files():
  """Turns what TensorFlow says of a file that it cannot read into one sentence."""
  try:
    yield
  except tf.errors.InvalidArgumentError:
    raise  # About a value, not a file.
  except tf.errors.OpError as error:
    raise UserError(f"the data set's files cannot be read: {error.message.splitlines()[0]}.") from error


@dataclasses.dataclass(frozen=True)
class _Decoder:
  """Records in a fixed order and how they become pixels; the arguments of `decoded_batches`."""

  records: Callable[[bool], tf.data.Dataset]
  convert: Convert
  options: ReadOptions
  seed: int

  def strict(self, first_batch):
    """Yields decoded batches; raises UserError at the first record that cannot be decoded."""
    done, batch_size = first_batch, self.options.batch_size
    dataset = self._from(first_batch, named=False).map(self._to_pixels, self._at_once, deterministic=True)
    try:
      for images, labels in dataset.batch(batch_size).prefetch(BATCHES_AHEAD).as_numpy_iterator():
        done += 1
        yield images, labels, np.ones(len(labels), bool)
    except tf.errors.InvalidArgumentError as error:
      # tf.data does not say which record it was: the batch is decoded once more, record by record.
      _, _, decoded, encoded, names = next(self.marked(done, batch_size))
      if decoded.all():
        raise
      bad = np.argmin(decoded)
      raise _undecodable(_printable(names[bad]), _reason(encoded[bad])) from error

  def skipping(self, first_batch, skipped):
    """Yields decoded batches with zeros for the records that cannot be decoded, and adds these to `skipped`."""
    for images, labels, decoded, encoded, names in self.marked(first_batch, self.options.batch_size):
      for image, name in zip(encoded[~decoded], names[~decoded], strict=True):
        skipped.add(_printable(name), _reason(image))
      yield images, labels, decoded

  def marked(self, first_batch, batch_size):
    """Returns an iterator over batches (images, labels, decoded, encoded, names).

    Where an image cannot be decoded it is zeros, and `encoded` holds its bytes; elsewhere `encoded` is empty. Each
    record goes through a data set of its own, where an error leaves nothing behind.
    """
    def decode(number, record):
      def one(image, label, decoded, encoded):
        return image, label, decoded, encoded, record["name"]

      good = tf.data.Dataset.from_tensors((number, record)).map(
          lambda number, record: one(*self._to_pixels(number, record), True, "")).ignore_errors()
      nothing = tf.zeros(good.element_spec[0].shape, tf.uint8)
      bad = tf.data.Dataset.from_tensors(one(nothing, tf.cast(record["label"], tf.int32), False, record["image"]))
      return good.concatenate(bad).take(1)

    dataset = self._from(first_batch, named=True).interleave(
        decode, cycle_length=self._at_once, block_length=1, num_parallel_calls=self._at_once, deterministic=True)
    return dataset.batch(batch_size).prefetch(BATCHES_AHEAD).as_numpy_iterator()

  @property
  def _at_once(self):
    """The number of records decoded at once. It is fixed: tf.data's tuner takes minutes to find one."""
    return self.options.num_threads or available_cores()

  def _from(self, first_batch, *, named):
    """Returns the numbered records from a batch on."""
    return self.records(named).enumerate().skip(first_batch * self.options.batch_size)

  def _to_pixels(self, number, record):
    """Returns image uint8 [H, W, C] and label int32 of a record of this process."""
    position = number * self.options.process_count + self.options.process_index  # Among the records of all processes.
    image = self.convert(record["image"], tf.stack([tf.constant(self.seed, tf.int64), position]))
    return image, tf.cast(record["label"], tf.int32)


def replace_undecodable(batch: DecodedBatch) -> tuple[np.ndarray, np.ndarray]:
  """Replaces the images of a training batch that could not be decoded by the next that could, and their labels.

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


def _reason(encoded):
  """Returns what TensorFlow says against an image, in a few words."""
  try:
    tf.io.decode_image(encoded)
  except tf.errors.InvalidArgumentError as error:
    message = error.message.splitlines()[0].partition(" [Op:")[0].rstrip(".")
    return re.sub(r"^\{\{.*?\}\} ", "", message)  # Where in TensorFlow's graph it happened.
  return "its size or channels do not fit"


def _undecodable(name, reason):
  """Returns the error of a record that cannot be decoded."""
  return UserError(
      f"record {name} cannot be decoded ({reason}); repair it, or set config.data.corrupt_records to 'skip'.")


def _printable(name):
  """Returns a record's name as text; file names need not be UTF-8."""
  return name.decode("utf-8", "backslashreplace")
