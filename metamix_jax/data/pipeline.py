"""From a TFDS data set to batches of NumPy arrays: uint8 images, normalised later on the device.

A split whose resized images fit in memory is decoded once and served with NumPy indexing; a larger one is
streamed with tf.data. Both give every process of a multi-process run its own part of each global batch.
"""

from collections.abc import Iterator
import dataclasses
import functools

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from metamix_jax.data import digits, generated  # Registers both with TFDS.

# TensorFlow only reads files here; left alone it would take the accelerators' memory away from JAX.
tf.config.set_visible_devices([], "GPU")
tf.config.set_visible_devices([], "TPU")

OWN_DATASETS = (digits.Digits.name, generated.Generated.name)

# A split is held decoded in memory up to this size. Far above the small sets (CIFAR at 32 x 32 is 154 MB), far
# below ImageNet at any size, and two such splits leave an ordinary machine room to train.
IN_MEMORY_BYTES = 2**30
# A training and an evaluation split at two image sizes; a further one pushes out the one unused for longest.
_SPLITS_IN_MEMORY = 4

# Ends of the random streams drawn from one seed, so that the order and the shifts are independent.
_ORDER_STREAM, _SHIFT_STREAM = 0, 1

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
  """What a model and a schedule must know of a data set.

  Attributes:
    num_classes: number of labels.
    num_train: number of images of the training split, over all processes.
    num_evaluation: number of images of the evaluation split, over all processes.
    channels: channels of an image, 1 or 3.
  """
  num_classes: int
  num_train: int
  num_evaluation: int
  channels: int


def classes_and_channels(name: str, data_dir: str | None) -> tuple[int, int]:
  """Number of classes, and channels of an image, of a data set that need not be prepared.

  Raises:
    ValueError: as `open_dataset`, but for a data set that is not prepared.
  """
  features = _builder(name, data_dir).info.features
  return features["label"].num_classes, features["image"].shape[-1]


def open_dataset(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
  """Opens a prepared data set; one of this package's own is prepared where it is missing (a second, no network).

  Args:
    name: TFDS name, perhaps with configuration and version ("imagenet_resized/32x32").
    data_dir: folder that holds the prepared data sets; None for TFDS's own.

  Returns:
    The TFDS builder, the handle that the other functions here take.

  Raises:
    ValueError: the name is unknown, the data set is not one of labelled images, or it is not prepared.
  """
  handle = _builder(name, data_dir)
  if not handle.is_prepared():
    if handle.name in OWN_DATASETS:
      _prepare_locally(handle)
    else:
      raise ValueError(_not_prepared(handle, name, data_dir))
  return handle


def _builder(name, data_dir):
  """The TFDS builder of a data set of labelled images, prepared or not."""
  base_name = name.partition("/")[0]
  # Without the community's data sets, whose list is on the network.
  if base_name not in OWN_DATASETS and base_name not in tfds.list_builders(with_community_datasets=False):
    raise ValueError(
        f"config.data.name is {name!r}, which is not a data set: use 'digits' or a name from the TFDS catalogue, such"
        " as 'imagenet2012'.")
  handle = tfds.builder(name, data_dir=data_dir)
  features = dict(handle.info.features.items()) if isinstance(handle.info.features, tfds.features.FeaturesDict) else {}
  if not (isinstance(features.get("image"), tfds.features.Image)
          and isinstance(features.get("label"), tfds.features.ClassLabel)):
    raise ValueError(
        f"config.data.name is {name!r}, which has no 'image' with one 'label': use a data set for image"
        " classification, such as 'digits' or 'imagenet2012'.")
  return handle


def dataset_info(handle: tfds.core.DatasetBuilder, *, train_split: str, evaluation_split: str) -> DatasetInfo:
  """Sizes of the two splits, number of classes and of channels.

  Raises:
    ValueError: the data set has no such split.
  """
  features = handle.info.features
  return DatasetInfo(
      num_classes=features["label"].num_classes,
      num_train=_num_examples(handle, train_split),
      num_evaluation=_num_examples(handle, evaluation_split),
      channels=features["image"].shape[-1],
  )


def train_epoch(
    handle: tfds.core.DatasetBuilder,
    *,
    split: str,
    image_size: int,
    batch_size: int,
    seed: int,
    epoch: int,
    max_shift: int,
    shuffle_buffer: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
  """One pass over `split` in an order of its own, without the images left over after the last whole batch.

  The batches depend on the arguments alone, not on threads or on what was read before, so a run can resume at any
  epoch. A split held in memory is shuffled exactly, and its global batches do not depend on `process_count`. A
  streamed one is shuffled by file and then through a buffer, each process in a part of the split of its own.

  Args:
    handle: from `open_dataset`.
    split: TFDS split, "train" or a part such as "train[:90%]".
    image_size: images are resized (bilinear, antialiased) to image_size x image_size pixels.
    batch_size: images in a batch of this process.
    seed: of the order and of the shifts, 0 or more.
    epoch: number of the pass; each has another order and other shifts.
    max_shift: each image moves by up to this many pixels up or down and left or right, zeros moving in; 0 for none.
    shuffle_buffer: images in the buffer of a streamed split; not used for one held in memory.
    process_index: number of this process.
    process_count: number of processes.

  Returns:
    Iterator over {"image": uint8 [N, H, W, C], "label": int32 [N]}, N = batch_size, H = W = image_size.

  Raises:
    ValueError: no such split, it has too few images for one batch, the shift would move an image out of itself, or a
      streamed split comes without a shuffle buffer.
  """
  num_examples = _num_examples(handle, split)
  num_batches = num_examples // process_count // batch_size
  if num_batches == 0:
    raise ValueError(
        f"A batch of {batch_size * process_count} images over all processes is more than the {num_examples} of split"
        f" {split!r} of {handle.name!r}: use a smaller one.")
  if not 0 <= max_shift < image_size:
    raise ValueError(f"max_shift is {max_shift}: use 0 to {image_size - 1} pixels, less than the image size.")
  if _fits_in_memory(handle, split, image_size):
    batches = _shuffled_batches_in_memory(
        handle, split, image_size, batch_size, num_batches, seed, epoch, process_index, process_count)
  else:
    if shuffle_buffer is None:
      raise ValueError(
          f"Split {split!r} of {handle.name!r} is too large to hold in memory: give shuffle_buffer, the images to"
          " shuffle among.")
    batches = _shuffled_batches_streamed(
        handle, split, image_size, batch_size, num_batches, seed, epoch, shuffle_buffer, process_index, process_count)
  return _shifted(batches, max_shift, seed, epoch, process_index, process_count)


def evaluation_batches(
    handle: tfds.core.DatasetBuilder,
    *,
    split: str,
    image_size: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
  """The whole of `split`, each image exactly once over all processes; zeros fill the last batch.

  Every process gets the same number of batches, so that collectives meet; one may consist of padding alone.

  Args:
    handle: from `open_dataset`.
    split: TFDS split.
    image_size: images are resized (bilinear, antialiased) to image_size x image_size pixels.
    batch_size: images in a batch of this process.
    process_index: number of this process.
    process_count: number of processes.

  Returns:
    Iterator over {"image": uint8 [N, H, W, C], "label": int32 [N], "mask": float32 [N]}, N = batch_size, H = W =
    image_size; mask is 1 for an image and 0 for padding.

  Raises:
    ValueError: no such split.
  """
  images_per_process = -(-_num_examples(handle, split) // process_count)
  num_batches = -(-images_per_process // batch_size)
  if _fits_in_memory(handle, split, image_size):
    images, labels = (array[process_index::process_count] for array in _arrays(handle, split, image_size))
    batches = (
        (images[start:start + batch_size], labels[start:start + batch_size])
        for start in range(0, num_batches * batch_size, batch_size))
  else:
    part = tfds.even_splits(split, n=process_count)[process_index]
    batches = _records(handle, part).map(_resizer(handle, image_size), tf.data.AUTOTUNE).batch(batch_size)
    batches = batches.prefetch(tf.data.AUTOTUNE).as_numpy_iterator()
  return _padded(batches, num_batches, batch_size, (image_size, image_size, handle.info.features["image"].shape[-1]))


def _prepare_locally(handle: tfds.core.DatasetBuilder) -> None:
  """Prepares a data set that needs no download. TFDS writes a folder of its own and renames it when complete."""
  try:
    handle.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
  except OSError:
    # Another process that prepared the same data set was first with the renaming: then its files will do.
    if not handle.is_prepared():
      raise


def _not_prepared(handle: tfds.core.DatasetBuilder, name: str, data_dir: str | None) -> str:
  """The sentence that says where `name` is missing and what prepares it."""
  command, afterword = f"tfds build {name}", ""
  if data_dir is not None:
    command += f" --data_dir={data_dir}"
  if handle.MANUAL_DOWNLOAD_INSTRUCTIONS:
    command += " --manual_dir=FOLDER"
    afterword = ", FOLDER being where you put the archives that have to be downloaded by hand"
  return (
      f"config.data.name is {name!r}, which is not prepared: there is nothing in {handle.data_path} (set"
      f" config.data.data_dir if it is elsewhere); prepare it with `{command}`{afterword}.")


def _num_examples(handle: tfds.core.DatasetBuilder, split: str) -> int:
  """Number of images of a split or of a part of one; ValueError for an unknown split."""
  try:
    return handle.info.splits[split].num_examples
  except (KeyError, ValueError) as error:
    raise ValueError(
        f"Data set {handle.name!r} has no split {split!r}: use one of {sorted(handle.info.splits)} or a part such as"
        " 'train[:90%]'.") from error


def _fits_in_memory(handle: tfds.core.DatasetBuilder, split: str, image_size: int) -> bool:
  """Whether the split's resized images stay within IN_MEMORY_BYTES."""
  channels = handle.info.features["image"].shape[-1]
  return _num_examples(handle, split) * image_size**2 * channels <= IN_MEMORY_BYTES


@functools.lru_cache(maxsize=_SPLITS_IN_MEMORY)
def _arrays(handle: tfds.core.DatasetBuilder, split: str, image_size: int) -> tuple[np.ndarray, np.ndarray]:
  """The whole split in the order of its files: images uint8 [M, H, W, C] and labels int32 [M], both read-only."""
  num_examples = _num_examples(handle, split)
  dataset = _records(handle, split).map(_resizer(handle, image_size), tf.data.AUTOTUNE).batch(num_examples)
  images, labels = next(dataset.as_numpy_iterator())
  for array in (images, labels):
    array.setflags(write=False)
  return images, labels


def _records(
    handle: tfds.core.DatasetBuilder, split, *, shuffle_seed: int | None = None) -> tf.data.Dataset:
  """Records with the image still encoded, in the order of the files or, with a seed, with the files shuffled."""
  options = tf.data.Options()
  options.deterministic = True
  return handle.as_dataset(
      split=split,
      shuffle_files=shuffle_seed is not None,
      decoders={"image": tfds.decode.SkipDecoding()},
      read_config=tfds.ReadConfig(options=options, shuffle_seed=shuffle_seed, try_autocache=False),
  )


def _resizer(handle: tfds.core.DatasetBuilder, image_size: int):
  """The function from a record to (image uint8 [H, W, C], label int32), with bilinear antialiased resizing."""
  decode = handle.info.features["image"].decode_example
  channels = handle.info.features["image"].shape[-1]

  def resize(record):
    image = tf.image.resize(decode(record["image"]), (image_size, image_size), method="bilinear", antialias=True)
    image = tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
    return tf.ensure_shape(image, (image_size, image_size, channels)), tf.cast(record["label"], tf.int32)

  return resize


def _shuffled_batches_in_memory(
    handle, split, image_size, batch_size, num_batches, seed, epoch, process_index, process_count):
  """Yields this process's part of each global batch, (images, labels), in the epoch's order."""
  images, labels = _arrays(handle, split, image_size)
  order = np.random.default_rng((seed, epoch, _ORDER_STREAM)).permutation(len(labels))
  first = process_index * batch_size
  for start in range(first, first + num_batches * batch_size * process_count, batch_size * process_count):
    chosen = order[start:start + batch_size]
    yield images[chosen], labels[chosen]


def _shuffled_batches_streamed(
    handle, split, image_size, batch_size, num_batches, seed, epoch, shuffle_buffer, process_index, process_count):
  """An iterator over (images, labels) of this process's part of the split, files and records shuffled."""
  files_seed, records_seed = (
      int(word) for word in np.random.default_rng((seed, epoch, _ORDER_STREAM)).integers(2**31, size=2))
  part = tfds.even_splits(split, n=process_count, drop_remainder=True)[process_index]
  dataset = _records(handle, part, shuffle_seed=files_seed)
  dataset = dataset.shuffle(shuffle_buffer, seed=records_seed)  # Still encoded, hence small.
  dataset = dataset.map(_resizer(handle, image_size), tf.data.AUTOTUNE, deterministic=True)
  dataset = dataset.batch(batch_size, drop_remainder=True).take(num_batches)
  return dataset.prefetch(tf.data.AUTOTUNE).as_numpy_iterator()


def _shifted(batches, max_shift, seed, epoch, process_index, process_count) -> Iterator[Batch]:
  """Moves each image by its own random offset, drawn for the whole global batch from (seed, epoch, batch number)."""
  for number, (images, labels) in enumerate(batches):
    if max_shift > 0:
      rng = np.random.default_rng((seed, epoch, _SHIFT_STREAM, number))
      offsets = rng.integers(2 * max_shift + 1, size=(process_count, len(images), 2))
      images = _crop(images, offsets[process_index], max_shift)
    yield {"image": images, "label": labels}


def _crop(images: np.ndarray, offsets: np.ndarray, max_shift: int) -> np.ndarray:
  """Pads with `max_shift` zeros on each side and cuts the original size out again.

  Args:
    images: uint8 [N, H, W, C].
    offsets: int [N, 2], row and column where each cut begins, 0 ... 2 * max_shift; max_shift leaves it in place.
    max_shift: pixels.

  Returns:
    uint8 [N, H, W, C].
  """
  _, height, width, _ = images.shape
  border = (max_shift, max_shift)
  padded = np.pad(images, ((0, 0), border, border, (0, 0)))
  cut = np.empty_like(images)
  for image, source, (row, column) in zip(cut, padded, offsets):
    image[:] = source[row:row + height, column:column + width]
  return cut


def _padded(batches, num_batches, batch_size, image_shape) -> Iterator[Batch]:
  """Yields exactly `num_batches` batches of `batch_size`, filled up with zeros and masked."""
  batches = iter(batches)
  nothing = np.zeros((0, *image_shape), np.uint8), np.zeros((0,), np.int32)
  for _ in range(num_batches):
    images, labels = next(batches, nothing)
    missing = (0, batch_size - len(labels))
    yield {
        "image": np.pad(images, (missing, (0, 0), (0, 0), (0, 0))),
        "label": np.pad(labels, missing),
        "mask": np.pad(np.ones(len(labels), np.float32), missing),
    }
