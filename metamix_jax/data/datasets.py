"""Opens TFDS data sets of labelled images by name, describes them, and reads them as encoded records."""

from collections.abc import Sequence
import contextlib
import dataclasses
import os
import re
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds

from metamix_jax.data import digit_pairs, digits, folders, generated  # Registers all but folders with TFDS.
from metamix_jax.data.folders import ClassFolders
from metamix_jax.errors import UserError

# TensorFlow only reads files here; left alone it would take the accelerators' memory away from JAX.
tf.config.set_visible_devices([], "GPU")
tf.config.set_visible_devices([], "TPU")

OWN_DATASETS = (digit_pairs.DigitPairs.name, digits.Digits.name, generated.Generated.name)
# The name of a user's own images: config.data.data_dir holds SPLIT/CLASS/IMAGE.
FOLDER = "folder"
# Class names in the log's line before it ends with an ellipsis.
_CLASSES_IN_WORDS = 10


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
  """Holds what a model and a schedule must know of a data set.

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


def classes_and_channels(name: str, data_dir: str | None, splits: Sequence[str] | None = None) -> tuple[int, int]:
  """Returns the number of classes and the channels of an image, of a data set that need not be prepared.

  Raises:
    UserError: the name is unknown, or the data set is not one of labelled images.
  """
  builder = _builder(name, data_dir, splits)
  return builder.info.features["label"].num_classes, image_channels(builder)


def open_dataset(name: str, data_dir: str | None, splits: Sequence[str] | None = None) -> tfds.core.DatasetBuilder:
  """Opens a prepared data set; one of this package's own is prepared where it is missing (seconds, no network).

  Args:
    name: TFDS name, perhaps with configuration and version ("imagenet_resized/32x32"), or "folder".
    data_dir: folder that holds the prepared data sets, None for TFDS's own; with "folder", the folder of
      SPLIT/CLASS/IMAGE (.jpg, .jpeg, .png).
    splits: with "folder", the splits that are used, which must have the same classes; None: all that are there.

  Returns:
    The TFDS builder, which the other functions here take.

  Raises:
    UserError: the name is unknown, the data set is not one of labelled images, it is not prepared or cannot be, or
      the folders of classes do not fit together.
  """
  builder = _builder(name, data_dir, splits)
  if name != FOLDER and not builder.is_prepared():
    if builder.name in OWN_DATASETS:
      _prepare_locally(builder)
    else:
      raise UserError(_not_prepared(builder, name, data_dir))
  return builder


def _builder(name, data_dir, splits):
  """Returns the TFDS builder of a data set of labelled images, prepared or not."""
  if name == FOLDER:
    return _class_folders(data_dir, splits)
  builder = _tfds_builder(name, data_dir)
  features = builder.info.features
  features = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
  if not (isinstance(features.get("image"), tfds.features.Image)
          and isinstance(features.get("label"), tfds.features.ClassLabel)):
    raise UserError(
        f"config.data.name is {name!r}, which has no 'image' with one 'label': use a data set for image"
        " classification, such as 'digits' or 'imagenet2012'.")
  if image_channels(builder) not in (1, 3):
    raise UserError(
        f"config.data.name is {name!r}, whose images have {image_channels(builder)} channels: use a data set of images"
        " with 1 or 3.")
  return builder


def _tfds_builder(name, data_dir):
  """Returns TFDS's builder of a name: DATASET or DATASET/CONFIG, either with :VERSION, also in CamelCase."""
  base_name, parts = re.split("[/:]", name)[0], {}
  with contextlib.suppress(ValueError):
    base_name, parts = tfds.core.naming.parse_builder_name_kwargs(name, data_dir=data_dir)
  base_name = str(base_name)
  # Without the community's data sets, whose list is on the network.
  known = base_name in OWN_DATASETS or base_name in tfds.list_builders(with_community_datasets=False)
  try:
    if known:
      return tfds.builder(name, data_dir=data_dir)
    # Perhaps prepared by a builder of the user's own, whose code is then not needed.
    return tfds.core.read_only_builder.builder_from_files(base_name, **parts)
  except OSError as error:
    raise UserError(
        f"config.data.name is {name!r}, whose files cannot be read in {data_dir or 'the data_dir of TFDS'}"
        f" ({error.strerror or error}); set config.data.data_dir to a folder that can be read.") from error
  except (AssertionError, KeyError, TypeError, ValueError, tfds.core.DatasetNotFoundError) as error:
    if known:
      raise UserError(f"config.data.name is {name!r}, which TFDS cannot open: {_versions_of(base_name)}.") from error
    raise UserError(
        f"config.data.name is {name!r}, which is not a data set: use 'digits', a name from the TFDS catalogue, such as"
        " 'imagenet2012', one that is prepared in config.data.data_dir, or 'folder' for images of your own.") from error


def _versions_of(base_name):
  """Returns what a name of TFDS's catalogue may be followed by, in words."""
  builder_class = tfds.builder_cls(base_name)
  configs = [config.name for config in builder_class.BUILDER_CONFIGS]
  version = f"the newest version is '{base_name}:{builder_class.VERSION}'"
  return f"the configurations are {configs}, as in '{base_name}/{configs[0]}', and {version}" if configs else version


def _class_folders(data_dir, splits):
  """Returns the builder of a user's own folder."""
  root = None if data_dir is None else os.path.expanduser(data_dir)
  if root is None or not os.path.isdir(root):
    raise UserError(
        f"config.data.data_dir is {data_dir!r}, which is not a folder: with config.data.name 'folder' it must hold"
        " SPLIT/CLASS/IMAGE, such as train/cat/1.jpg.")
  return ClassFolders(root, splits)


def dataset_info(builder: tfds.core.DatasetBuilder, *, train_split: str, evaluation_split: str) -> DatasetInfo:
  """Returns the sizes of the two splits, the number of classes and the number of channels.

  Raises:
    UserError: a split does not exist or has no images, or there is only one class.
  """
  features = builder.info.features
  for split in (train_split, evaluation_split):
    if num_examples(builder, split) <= 0:  # TFDS counts below 0 where a part ends before it begins.
      raise UserError(f"Data set {builder.name!r} has no images in split {split!r}: use one that has.")
  if features["label"].num_classes < 2:
    raise UserError(
        f"Data set {builder.name!r} has a single class, {features['label'].names}: use one with two or more.")
  return DatasetInfo(
      num_classes=features["label"].num_classes,
      num_train=num_examples(builder, train_split),
      num_evaluation=num_examples(builder, evaluation_split),
      channels=image_channels(builder),
  )


def describe(builder: tfds.core.DatasetBuilder, splits: Sequence[str]) -> dict[str, Any]:
  """Describes what a run reads, so that a later start can tell whether it reads the same.

  Args:
    builder: from `open_dataset`.
    splits: the TFDS splits that are used.

  Returns:
    "name"; "version"; "classes", the names in the order of their labels; "images", their number by split; for class
    folders "digests" too, by "SPLIT/CLASS". JSON can hold all of it.

  Raises:
    UserError: a split does not exist, or an image of a class folder cannot be read.
  """
  description = {
      "name": _full_name(builder),
      "version": str(builder.version),
      "classes": list(builder.info.features["label"].names),
      "images": {split: num_examples(builder, split) for split in splits},
  }
  return description | ({"digests": builder.digests()} if isinstance(builder, ClassFolders) else {})


def describe_in_words(builder: tfds.core.DatasetBuilder, splits: Sequence[str]) -> str:
  """Returns one line for the log: classes, images of each split, and for class folders what is left out and why."""
  names = builder.info.features["label"].names
  classes = ", ".join(names[:_CLASSES_IN_WORDS]) + (", ..." if len(names) > _CLASSES_IN_WORDS else "")
  images = ", ".join(f"{split} {num_examples(builder, split)} images" for split in dict.fromkeys(splits))
  left_out = folders.in_words(builder.left_out) if isinstance(builder, ClassFolders) else ""
  return (
      f"{_full_name(builder)} {builder.version}, {len(names)} classes ({classes}), {images}"
      + (f"; left out: {left_out}" if left_out else ""))


def _full_name(builder):
  """Returns the name with the configuration, where the data set has several."""
  return f"{builder.name}/{builder.builder_config.name}" if builder.builder_config else builder.name


def _prepare_locally(builder: tfds.core.DatasetBuilder) -> None:
  """Prepares a data set that needs no download. TFDS writes to a temporary folder and renames it when complete."""
  tfds.disable_progress_bar()  # Preparing takes seconds, and the bars would stay on the screen.
  try:
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
  except OSError as error:
    # Where another process prepared the same data set and was first with the renaming, its files will do.
    if not builder.is_prepared():
      raise UserError(
          f"data set {builder.name!r} cannot be written to {builder.data_path} ({error.strerror or error}); set"
          " config.data.data_dir to a folder that can be written to.") from error


def _not_prepared(builder: tfds.core.DatasetBuilder, name: str, data_dir: str | None) -> str:
  """Returns the sentence that says where `name` is missing and what prepares it."""
  command, afterword = f"tfds build {name}", ""
  if data_dir is not None:
    command += f" --data_dir={data_dir}"
  if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
    command += " --manual_dir=FOLDER"
    afterword = ", FOLDER being where you put the archives that have to be downloaded by hand"
  return (
      f"config.data.name is {name!r}, which is not prepared: there is nothing in {builder.data_path} (set"
      f" config.data.data_dir if it is elsewhere); prepare it with `{command}`{afterword}.")


def num_examples(builder: tfds.core.DatasetBuilder, split: str) -> int:
  """Returns the number of images of a split or of a part of one.

  Raises:
    UserError: the split does not exist.
  """
  parts = " or a part such as 'train[:90%]'"
  if isinstance(builder, ClassFolders):
    parts = ""  # Its splits are used whole.
  try:
    if not parts and split not in builder.info.splits:
      raise KeyError(split)
    return builder.info.splits[split].num_examples
  except (KeyError, ValueError) as error:
    splits = sorted(builder.info.splits)
    raise UserError(f"Data set {builder.name!r} has no split {split!r}: use one of {splits}{parts}.") from error


def image_channels(builder: tfds.core.DatasetBuilder) -> int:
  """Returns the number of channels of an image, 1 or 3."""
  return builder.info.features["image"].shape[-1]


def records(
    builder: tfds.core.DatasetBuilder, split: str, *, process_index: int = 0, process_count: int = 1,
    shuffle_seed: int | None = None, num_threads: int = 0, named: bool = False,
) -> tf.data.Dataset:
  """Reads this process's part of a split, the images still encoded. The parts cover the split and share no image.

  Args:
    builder: from `open_dataset`.
    split: TFDS split.
    process_index: number of this process.
    process_count: number of processes.
    shuffle_seed: the order of the files is shuffled with it; None: as they are.
    num_threads: for reading and all that is mapped over the result; 0: one for each core.
    named: adds the names of the records, which costs some speed.

  Returns:
    Data set of {"image": bytes, "label": int64, ...} and, if `named`, "name": a string that finds the record again.
    The order depends on the arguments alone.
  """
  options = tf.data.Options()
  options.deterministic = True
  options.threading.private_threadpool_size = num_threads
  # Every number is fixed (streaming.py): the tuner sometimes leaves a whole epoch on a single core.
  options.autotune.enabled = False
  # Images are decoded side by side: threads within one only get in the way.
  options.threading.max_intra_op_parallelism = 1
  if isinstance(builder, ClassFolders):
    dataset, name = builder.encoded(split, process_index, process_count), "image/filename"
  else:
    part = tfds.even_splits(split, n=process_count)[process_index]
    nothing = num_examples(builder, part) == 0  # More processes than images; TFDS does not read an empty part.
    dataset = builder.as_dataset(
        split=split if nothing else part, shuffle_files=shuffle_seed is not None,
        decoders={"image": tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(shuffle_seed=shuffle_seed, try_autocache=False, add_tfds_id=named))
    dataset, name = dataset.take(0) if nothing else dataset, "tfds_id"
  if named:
    dataset = dataset.map(lambda record: record | {"name": record[name]})
  return dataset.with_options(options)
