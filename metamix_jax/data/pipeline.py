"""From a TFDS data set to batches of NumPy arrays: uint8 images, normalised later on the device.

Small images that are only shifted are decoded once, held in memory and served with NumPy indexing; everything else is
streamed with tf.data. Both give every process of a multi-process run its own part of each global batch.
"""

from collections.abc import Iterator
import dataclasses
import functools

import numpy as np
import tensorflow_datasets as tfds

from metamix_jax.data import images as image_functions
from metamix_jax.data import streaming
from metamix_jax.data.datasets import image_channels, num_examples, records
from metamix_jax.data.shift import mirror_images, shift_images
from metamix_jax.data.streaming import ReadOptions, decoded_batches, replace_undecodable
from metamix_jax.errors import UserError

# A split is held decoded in memory up to this size. Far above the small sets (CIFAR at 32 x 32 is 154 MB), far
# below ImageNet at any size, and two such splits leave an ordinary machine room to train.
IN_MEMORY_BYTES = 2**30
# A training and an evaluation split at two image sizes; a further one pushes out the one unused for longest.
_SPLITS_IN_MEMORY = 4

# Ends of the random streams drawn from one seed, so that orders, shifts and crops are independent.
_ORDER_STREAM, _SHIFT_STREAM, _CROP_STREAM, _MIRROR_STREAM = range(4)

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Shift:
  """Augments small images: the whole image is resized, then moved; zeros move in.

  Attributes:
    max_shift: pixels up or down and left or right, 0 for none.
    flip_probability: of mirroring left and right.
  """

  max_shift: int
  flip_probability: float


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
  """Augments photographs: a random window is cut out and resized (images.random_resized_crop).

  Attributes:
    area: lowest and highest fraction of the image's area.
    aspect: lowest and highest width / height.
    flip_probability: of mirroring left and right.
  """

  area: tuple[float, float]
  aspect: tuple[float, float]
  flip_probability: float


def train_epoch(
    builder: tfds.core.DatasetBuilder, split: str, options: ReadOptions, augmentation: Shift | RandomResizedCrop, *,
    seed: int, epoch: int, shuffle_buffer: int, first_batch: int = 0,
) -> Iterator[Batch]:
  """Makes one shuffled pass over a split, without the images left over after the last whole batch.

  The batches depend on the arguments alone, not on threads or on what was read before, so a run can resume at any
  batch of any epoch. A split held in memory is shuffled exactly, and its global batches do not depend on
  `process_count`. A streamed split is shuffled by file and then through a buffer, and each process reads its own part
  of it; an epoch has the same number of batches with any number of processes that share the global batch.

  Args:
    builder: from `open_dataset`.
    split: TFDS split, "train" or a part such as "train[:90%]".
    options: batch size, image size and process.
    augmentation: what is done to each image.
    seed: of the order and of the augmentation, 0 or more.
    epoch: number of the pass; each has another order and other augmentation.
    shuffle_buffer: encoded images in the buffer of a streamed split.
    first_batch: batches to leave out at the beginning; their records are not decoded.

  Returns:
    Iterator over {"image": uint8 [N, H, W, C], "label": int32 [N]}, N = batch_size, H = W = image_size. Where records
    are skipped, the next decodable image of the batch takes their place.

  Raises:
    UserError: the split does not exist, it has too few images for one batch, or the shift would move an image out of
      itself; while iterating, a record that cannot be decoded.
  """
  global_batch = options.batch_size * options.process_count
  num_batches = num_examples(builder, split) // global_batch
  if num_batches == 0:
    raise UserError(
        f"A batch of {global_batch} images over all processes is more than the {num_examples(builder, split)} of split"
        f" {split!r} of {builder.name!r}: use a smaller one.")
  current = _Epoch(builder, split, options, seed, epoch, num_batches, first_batch)
  channels = image_channels(builder)
  if isinstance(augmentation, RandomResizedCrop):
    convert = image_functions.random_resized_crop(options.image_size, channels, **dataclasses.asdict(augmentation))
    batches = current.streamed(convert, shuffle_buffer)
    return ({"image": images, "label": labels} for images, labels in batches)
  if not 0 <= augmentation.max_shift < options.image_size:
    raise UserError(
        f"max_shift is {augmentation.max_shift}: use 0 to {options.image_size - 1} pixels, less than the image size.")
  if _fits_in_memory(builder, split, options, short_side=None):
    batches = current.from_memory()
  else:
    batches = current.streamed(image_functions.whole_image(options.image_size, channels), shuffle_buffer)
  return current.shifted(batches, augmentation)


def evaluation_batches(
    builder: tfds.core.DatasetBuilder, split: str, options: ReadOptions, *, short_side: int | None
) -> Iterator[Batch]:
  """Reads a whole split, each image exactly once over all processes; zeros fill the last batch.

  Every process gets the same number of batches, so that collectives meet; one may consist of padding alone.

  Args:
    builder: from `open_dataset`.
    split: TFDS split.
    options: batch size, image size and process.
    short_side: pixels to which the short side is resized before the middle is cut out; None: the whole image is
      resized to image_size x image_size. Antialiased.

  Returns:
    Iterator over {"image": uint8 [N, H, W, C], "label": int32 [N], "mask": float32 [N]}, N = batch_size, H = W =
    image_size; mask is 1 for an image and 0 for padding and for records that are skipped.

  Raises:
    UserError: the split does not exist; while iterating, a record that cannot be decoded.
  """
  images_per_process = -(-num_examples(builder, split) // options.process_count)
  num_batches = -(-images_per_process // options.batch_size)
  if _fits_in_memory(builder, split, options, short_side):
    arrays = _arrays(builder, split, options.image_size)
    arrays = [array[options.process_index::options.process_count] for array in arrays]
    arrays.append(np.ones(len(arrays[0]), bool))  # All of them could be decoded.
    batches = (
        tuple(array[start:start + options.batch_size] for array in arrays)
        for start in range(0, num_batches * options.batch_size, options.batch_size))
  else:
    batches = _decoded_in_order(builder, split, options, short_side)
  return _padded(batches, num_batches, options, image_channels(builder))


def check_records(builder: tfds.core.DatasetBuilder, split: str, options: ReadOptions) -> None:
  """Reads the beginning of a split, the same in every process, to find out whether anything can be trained on it.

  Args:
    builder: from `open_dataset`.
    split: TFDS split that has images.
    options: whether records may be skipped.

  Raises:
    UserError: none of its records can be decoded, or the first one cannot and none may be skipped, or it has no
      label; the sentence names it.
  """
  options = dataclasses.replace(options, batch_size=1, process_index=0, process_count=1)
  streaming.check_records(
      lambda named: _records(builder, split, options, named), _evaluation_decoder(builder, options, short_side=None),
      options, builder.info.features["label"].num_classes, split)


@dataclasses.dataclass(frozen=True)
class _Epoch:
  """One pass over a training split; every random number of it comes from (seed, number)."""

  builder: tfds.core.DatasetBuilder
  split: str
  options: ReadOptions
  seed: int
  number: int
  num_batches: int
  first_batch: int

  def generator(self, stream: int, *numbers: int) -> np.random.Generator:
    """Returns the generator of one of the random streams."""
    return np.random.default_rng((self.seed, self.number, stream, *numbers))

  def from_memory(self):
    """Yields this process's part of each global batch, (images, labels), in the epoch's order."""
    images, labels = _arrays(self.builder, self.split, self.options.image_size)
    order = self.generator(_ORDER_STREAM).permutation(len(labels))
    for number in range(self.first_batch, self.num_batches):
      start = (number * self.options.process_count + self.options.process_index) * self.options.batch_size
      chosen = order[start:start + self.options.batch_size]
      yield images[chosen], labels[chosen]

  def streamed(self, convert, shuffle_buffer):
    """Yields (images, labels) of this process's part of the split, files and records shuffled."""
    files_seed, records_seed = map(int, self.generator(_ORDER_STREAM).integers(2**31, size=2))
    crop_seed = int(self.generator(_CROP_STREAM).integers(2**63))

    def shuffled(named):
      dataset = _records(self.builder, self.split, self.options, named, shuffle_seed=files_seed)
      dataset = dataset.shuffle(shuffle_buffer, seed=records_seed)  # Still encoded, hence small.
      return dataset.take(self.num_batches * self.options.batch_size)

    batches = decoded_batches(shuffled, convert, self.options, seed=crop_seed, first_batch=self.first_batch)
    return map(replace_undecodable, batches)

  def shifted(self, batches, augmentation) -> Iterator[Batch]:
    """Moves and mirrors each image by itself, drawn for the whole global batch from its number."""
    for number, (images, labels) in enumerate(batches, start=self.first_batch):
      if augmentation.max_shift > 0:
        offsets = self._draw(_SHIFT_STREAM, number, 2 * augmentation.max_shift + 1, 2).astype(int)
        images = shift_images(images, offsets, augmentation.max_shift)
      if augmentation.flip_probability > 0:
        images = mirror_images(images, self._draw(_MIRROR_STREAM, number, 1) < augmentation.flip_probability)
      yield {"image": images, "label": labels}

  def _draw(self, stream, batch_number, high, *shape):
    """Draws float64 [N, *shape] uniformly from [0, high), this process's part of a global batch."""
    whole = (self.options.process_count, self.options.batch_size, *shape)
    return self.generator(stream, batch_number).uniform(0, high, whole)[self.options.process_index]


def _records(builder, split, options, named, shuffle_seed=None):
  """Reads this process's part of a split, still encoded."""
  return records(
      builder, split, process_index=options.process_index, process_count=options.process_count,
      shuffle_seed=shuffle_seed, num_threads=options.num_threads, named=named)


def _evaluation_decoder(builder, options, short_side):
  """Returns the conversion without augmentation."""
  channels = image_channels(builder)
  if short_side is None:
    return image_functions.whole_image(options.image_size, channels)
  return image_functions.center_crop(options.image_size, channels, short_side)


def _decoded_in_order(builder, split, options, short_side):
  """Returns an iterator over decoded batches without augmentation, in the order of the files."""
  convert = _evaluation_decoder(builder, options, short_side)
  return decoded_batches(lambda named: _records(builder, split, options, named), convert, options, seed=0)


def _fits_in_memory(builder, split, options, short_side):
  """Tells whether the split's resized images stay within IN_MEMORY_BYTES and nothing asks for more than resizing."""
  size = num_examples(builder, split) * options.image_size**2 * image_channels(builder)
  return short_side is None and options.skipped is None and size <= IN_MEMORY_BYTES


@functools.lru_cache(maxsize=_SPLITS_IN_MEMORY)
def _arrays(builder: tfds.core.DatasetBuilder, split: str, image_size: int) -> tuple[np.ndarray, np.ndarray]:
  """Decodes a whole split in the order of its files: images uint8 [M, H, W, C], labels int32 [M], both read-only."""
  (images, labels, _), = _decoded_in_order(builder, split, ReadOptions(num_examples(builder, split), image_size), None)
  for array in (images, labels):
    array.setflags(write=False)
  return images, labels


def _padded(batches, num_batches, options, channels) -> Iterator[Batch]:
  """Yields exactly `num_batches` batches of the batch size, filled up with zeros and masked."""
  batches = iter(batches)
  shape = (options.image_size, options.image_size, channels)
  nothing = np.zeros((0, *shape), np.uint8), np.zeros((0,), np.int32), np.zeros((0,), bool)
  for _ in range(num_batches):
    images, labels, decoded = next(batches, nothing)
    missing = (0, options.batch_size - len(labels))
    yield {
        "image": np.pad(images, (missing, (0, 0), (0, 0), (0, 0))),
        "label": np.pad(labels, missing),
        "mask": np.pad(decoded.astype(np.float32), missing),
    }
