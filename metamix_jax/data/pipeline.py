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
from metamix_jax.data.datasets import image_channels, num_examples, records
from metamix_jax.data.shift import mirror_images, shift_images
from metamix_jax.data.streaming import Reading, decoded_batches, fill_gaps
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
  """Augmentation of small images: the whole image resized, then moved, zeros moving in.

  Attributes:
    max_shift: pixels up or down and left or right, 0 for none.
    flip_probability: of mirroring left and right.
  """
  max_shift: int
  flip_probability: float


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
  """Augmentation of photographs: a random window resized (images.random_resized_crop).

  Attributes:
    area: lowest and highest fraction of the image's area.
    aspect: lowest and highest width / height.
    flip_probability: of mirroring left and right.
  """
  area: tuple[float, float]
  aspect: tuple[float, float]
  flip_probability: float


def train_epoch(
    handle: tfds.core.DatasetBuilder, split: str, reading: Reading, augmentation: Shift | RandomResizedCrop, *,
    seed: int, epoch: int, shuffle_buffer: int, first_batch: int = 0,
) -> Iterator[Batch]:
  """One pass over `split` in an order of its own, without the images left over after the last whole batch.

  The batches depend on the arguments alone, not on threads or on what was read before, so a run can resume at any
  batch of any epoch. A split held in memory is shuffled exactly, and its global batches do not depend on
  `process_count`. A streamed one is shuffled by file and then through a buffer, each process in a part of the split of
  its own; an epoch has the same number of batches with any number of processes that share the global batch.

  Args:
    handle: from `open_dataset`.
    split: TFDS split, "train" or a part such as "train[:90%]".
    reading: batch size, image size and process.
    augmentation: what is done to each image.
    seed: of the order and of the augmentation, 0 or more.
    epoch: number of the pass; each has another order and other augmentation.
    shuffle_buffer: encoded images in the buffer of a streamed split.
    first_batch: batches to leave out at the beginning; nothing of them is decoded.

  Returns:
    Iterator over {"image": uint8 [N, H, W, C], "label": int32 [N]}, N = batch_size, H = W = image_size. Where records
    are skipped, the next good image of the batch takes their place.

  Raises:
    UserError: no such split, it has too few images for one batch, or the shift would move an image out of itself;
      while iterating, a record that cannot be decoded.
  """
  global_batch = reading.batch_size * reading.process_count
  num_batches = num_examples(handle, split) // global_batch
  if num_batches == 0:
    raise UserError(
        f"A batch of {global_batch} images over all processes is more than the {num_examples(handle, split)} of split"
        f" {split!r} of {handle.name!r}: use a smaller one.")
  streamed = functools.partial(
      _shuffled_batches_streamed, handle, split, reading, seed=seed, epoch=epoch, shuffle_buffer=shuffle_buffer,
      num_batches=num_batches, first_batch=first_batch)
  channels = image_channels(handle)
  if isinstance(augmentation, RandomResizedCrop):
    convert = image_functions.random_resized_crop(reading.image_size, channels, **dataclasses.asdict(augmentation))
    return ({"image": images, "label": labels} for images, labels in streamed(convert))
  if not 0 <= augmentation.max_shift < reading.image_size:
    raise UserError(
        f"max_shift is {augmentation.max_shift}: use 0 to {reading.image_size - 1} pixels, less than the image size.")
  if _held_in_memory(handle, split, reading, short_side=None):
    batches = _shuffled_batches_in_memory(
        handle, split, reading, seed=seed, epoch=epoch, num_batches=num_batches, first_batch=first_batch)
  else:
    batches = streamed(image_functions.whole_image(reading.image_size, channels))
  return _augmented(batches, augmentation, reading, (seed, epoch), first_batch)


def evaluation_batches(
    handle: tfds.core.DatasetBuilder, split: str, reading: Reading, *, short_side: int | None
) -> Iterator[Batch]:
  """The whole of `split`, each image exactly once over all processes; zeros fill the last batch.

  Every process gets the same number of batches, so that collectives meet; one may consist of padding alone.

  Args:
    handle: from `open_dataset`.
    split: TFDS split.
    reading: batch size, image size and process.
    short_side: pixels to which the short side is resized before the middle is cut out; None: the whole image is
      resized to image_size x image_size. Antialiased.

  Returns:
    Iterator over {"image": uint8 [N, H, W, C], "label": int32 [N], "mask": float32 [N]}, N = batch_size, H = W =
    image_size; mask is 1 for an image and 0 for padding and for records that are skipped.

  Raises:
    UserError: no such split; while iterating, a record that cannot be decoded.
  """
  images_per_process = -(-num_examples(handle, split) // reading.process_count)
  num_batches = -(-images_per_process // reading.batch_size)
  if _held_in_memory(handle, split, reading, short_side):
    arrays = _arrays(handle, split, reading.image_size)
    arrays = [array[reading.process_index::reading.process_count] for array in arrays]
    arrays.append(np.ones(len(arrays[0]), bool))  # All of them could be decoded.
    batches = (
        tuple(array[start:start + reading.batch_size] for array in arrays)
        for start in range(0, num_batches * reading.batch_size, reading.batch_size))
  else:
    batches = decoded_batches(
        lambda named: _records(handle, split, reading, named), _still(handle, reading, short_side), reading, seed=0)
  return _padded(batches, num_batches, reading, image_channels(handle))


def _records(handle, split, reading, named, shuffle_seed=None):
  return records(
      handle, split, process_index=reading.process_index, process_count=reading.process_count,
      shuffle_seed=shuffle_seed, num_threads=reading.num_threads, named=named)


def _still(handle, reading, short_side):
  """The conversion without augmentation."""
  channels = image_channels(handle)
  if short_side is None:
    return image_functions.whole_image(reading.image_size, channels)
  return image_functions.center_crop(reading.image_size, channels, short_side)


def _held_in_memory(handle, split, reading, short_side):
  """Whether the split's resized images stay within IN_MEMORY_BYTES and nothing asks for more than resizing."""
  size = num_examples(handle, split) * reading.image_size**2 * image_channels(handle)
  return short_side is None and reading.skipped is None and size <= IN_MEMORY_BYTES


@functools.lru_cache(maxsize=_SPLITS_IN_MEMORY)
def _arrays(handle: tfds.core.DatasetBuilder, split: str, image_size: int) -> tuple[np.ndarray, np.ndarray]:
  """The whole split in the order of its files: images uint8 [M, H, W, C] and labels int32 [M], both read-only."""
  reading = Reading(num_examples(handle, split), image_size)
  (images, labels, _), = decoded_batches(
      lambda named: _records(handle, split, reading, named), _still(handle, reading, None), reading, seed=0)
  for array in (images, labels):
    array.setflags(write=False)
  return images, labels


def _shuffled_batches_in_memory(handle, split, reading, *, seed, epoch, num_batches, first_batch):
  """Yields this process's part of each global batch, (images, labels), in the epoch's order."""
  images, labels = _arrays(handle, split, reading.image_size)
  order = np.random.default_rng((seed, epoch, _ORDER_STREAM)).permutation(len(labels))
  for number in range(first_batch, num_batches):
    start = (number * reading.process_count + reading.process_index) * reading.batch_size
    chosen = order[start:start + reading.batch_size]
    yield images[chosen], labels[chosen]


def _shuffled_batches_streamed(
    handle, split, reading, convert, *, seed, epoch, shuffle_buffer, num_batches, first_batch):
  """Yields (images, labels) of this process's part of the split, files and records shuffled."""
  files_seed, records_seed = (
      int(word) for word in np.random.default_rng((seed, epoch, _ORDER_STREAM)).integers(2**31, size=2))
  crop_seed = int(np.random.default_rng((seed, epoch, _CROP_STREAM)).integers(2**63))

  def shuffled(named):
    dataset = _records(handle, split, reading, named, shuffle_seed=files_seed)
    dataset = dataset.shuffle(shuffle_buffer, seed=records_seed)  # Still encoded, hence small.
    return dataset.take(num_batches * reading.batch_size)

  for batch in decoded_batches(shuffled, convert, reading, seed=crop_seed, first_batch=first_batch):
    yield fill_gaps(batch)


def _augmented(batches, augmentation, reading, seed_and_epoch, first_batch) -> Iterator[Batch]:
  """Moves and mirrors each image by itself, drawn for the whole global batch from (seed, epoch, batch number)."""
  for number, (images, labels) in enumerate(batches, start=first_batch):
    def draw(stream, high, *shape):
      rng = np.random.default_rng((*seed_and_epoch, stream, number))  # pylint: disable=cell-var-from-loop
      return rng.uniform(0, high, (reading.process_count, reading.batch_size, *shape))[reading.process_index]

    if augmentation.max_shift > 0:
      offsets = draw(_SHIFT_STREAM, 2 * augmentation.max_shift + 1, 2).astype(int)
      images = shift_images(images, offsets, augmentation.max_shift)
    if augmentation.flip_probability > 0:
      images = mirror_images(images, draw(_MIRROR_STREAM, 1) < augmentation.flip_probability)
    yield {"image": images, "label": labels}


def _padded(batches, num_batches, reading, channels) -> Iterator[Batch]:
  """Yields exactly `num_batches` batches of the batch size, filled up with zeros and masked."""
  batches = iter(batches)
  shape = (reading.image_size, reading.image_size, channels)
  nothing = np.zeros((0, *shape), np.uint8), np.zeros((0,), np.int32), np.zeros((0,), bool)
  for _ in range(num_batches):
    images, labels, decoded = next(batches, nothing)
    missing = (0, reading.batch_size - len(labels))
    yield {
        "image": np.pad(images, (missing, (0, 0), (0, 0), (0, 0))),
        "label": np.pad(labels, missing),
        "mask": np.pad(decoded.astype(np.float32), missing),
    }
