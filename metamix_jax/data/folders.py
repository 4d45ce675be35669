"""Reads a user's own images from folders, ROOT/SPLIT/CLASS/IMAGE."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import hashlib
import os
import pathlib
import random
import unicodedata

import tensorflow as tf
import tensorflow_datasets as tfds

from metamix_jax.errors import UserError

FORMATS = (".jpg", ".jpeg", ".png")
# Written by file managers, archivers and Python beside what a user puts there. Names that begin with a dot are, too.
HIDDEN = ("__MACOSX", "__pycache__", "@eaDir")
# Names listed in a sentence before it says how many more there are.
_NAMES_LISTED = 5


class ClassFolders(tfds.core.DatasetBuilder, skip_registration=True):
  """The images below a folder; a class is a folder of each split, its label the place of its name in sorted order.

  Features: `image` uint8 [H, W, 3]; `label` int64; `image/filename`.
  """

  VERSION = tfds.core.Version("1.0.0")
  name = "folder"

  def __init__(self, root: str, splits: Sequence[str] | None = None):
    """Lists the images of the splits; reads none.

    Args:
      root: the folder.
      splits: folders in it; their classes must agree, and no other folder is looked at. None: all of them.

    Raises:
      UserError: a split does not exist or holds no class folder, a class has a folder in one split only or no images,
        or a folder cannot be read.
    """
    super().__init__(data_dir=root)
    self._data_dir = root  # TFDS would add a name and a version.
    available = _split_folders(root)
    for split in splits or ():
      if split not in available:
        raise UserError(
            f"config.data.data_dir is {root!r}, which has no split {split!r}: with config.data.name 'folder' a split is"
            f" a folder of class folders, used whole; there are {_listed(available) or 'none'}.")
    self._contents = {split: _list_split(os.path.join(root, split)) for split in sorted(set(splits or available))}
    _check_classes(root, self._contents)
    names = sorted({name for contents in self._contents.values() for name in contents.images})
    self.info.features["label"].names = names
    self.info.set_splits(tfds.core.splits.SplitDict([
        tfds.core.SplitInfo(name=split, shard_lengths=[contents.num_images], num_bytes=0)
        for split, contents in self._contents.items()]))

  @property
  def left_out(self) -> dict[str, int]:
    """Returns how many files and folders are not used, by the reason."""
    return dict(sum((contents.left_out for contents in self._contents.values()), Counter()))

  def encoded(self, split: str, process_index: int, process_count: int) -> tf.data.Dataset:
    """Reads every process_count-th image of a split from process_index on, still encoded.

    Returns:
      Data set of {"image": bytes, "label": int64, "image/filename": bytes}; the order depends on the names alone.
    """
    label_of = self.info.features["label"].str2int
    contents = self._contents[split]
    examples = [(path, label_of(name)) for name, path in contents.paths(os.path.join(self._data_dir, split))]
    random.Random(split).shuffle(examples)  # The order in which TFDS's ImageFolder has them.
    examples = examples[process_index::process_count]
    paths = tf.constant([os.fsencode(path) for path, _ in examples], tf.string)
    labels = tf.constant([label for _, label in examples], tf.int64)
    return tf.data.Dataset.from_tensor_slices((paths, labels)).map(
        lambda path, label: {"image": tf.io.read_file(path), "label": label, "image/filename": path},
        num_parallel_calls=tf.data.AUTOTUNE)

  def digests(self) -> dict[str, str]:
    """Returns a digest of each class of each split, by "SPLIT/CLASS": of its images' names and the first one's bytes.

    Two folders that change their names are told apart by it, without reading every image.

    Raises:
      UserError: an image cannot be read.
    """
    digests = {}
    for split, contents in self._contents.items():
      for name, images in contents.images.items():
        digest = hashlib.sha256(b"\0".join(map(os.fsencode, images)))
        first = pathlib.Path(self._data_dir, split, name, images[0])
        try:
          digest.update(first.read_bytes())
        except OSError as error:
          raise UserError(f"image {first} cannot be read ({error.strerror}).") from error
        digests[f"{split}/{name}"] = digest.hexdigest()[:16]
    return digests

  def _info(self) -> tfds.core.DatasetInfo:
    """Returns the features; the class names follow when the folder is listed."""
    return tfds.core.DatasetInfo(
        builder=self, description="Images in class folders.",
        features=tfds.features.FeaturesDict({
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(),
            "image/filename": tfds.features.Text(),
        }),
        supervised_keys=("image", "label"))

  def _download_and_prepare(self, **kwargs):
    """Raises NotImplementedError: nothing needs to be prepared."""
    raise NotImplementedError("class folders are read as they are")

  def _as_dataset(self, split, decoders=None, read_config=None, shuffle_files=False):
    """Returns the decoded images of a split, in the order of `encoded`."""
    del read_config, shuffle_files
    return self.encoded(split, 0, 1).map(lambda example: self.info.features.decode_example(example, decoders=decoders))


@dataclasses.dataclass(frozen=True)
class _Contents:
  """What a split folder holds: the sorted names of the images by class, and what is not used, by the reason."""

  images: Mapping[str, Sequence[str]]
  left_out: Counter[str]

  @property
  def num_images(self) -> int:
    """Returns the number of images of all classes."""
    return sum(map(len, self.images.values()))

  def paths(self, folder: str) -> Iterator[tuple[str, str]]:
    """Yields (class, path) of every image of this split folder, in sorted order."""
    for name, images in sorted(self.images.items()):
      for image in images:
        yield name, os.path.join(folder, name, image)


def _split_folders(root):
  """Returns the sorted names of the folders in `root` that may be splits."""
  return [entry.name for entry in _entries(root) if entry.is_dir() and not _is_hidden(entry.name)]


def _list_split(folder):
  """Returns the contents of a split folder."""
  images, left_out = {}, Counter()
  for entry in _entries(folder):
    if _is_hidden(entry.name):
      left_out["hidden"] += 1
    elif entry.is_dir():
      images[entry.name], of_class = _list_class(entry.path)
      left_out += of_class
    else:
      left_out["outside a class folder"] += 1
  return _Contents(images, left_out)


def _list_class(folder):
  """Returns the sorted names of a class folder's images, and what is left out."""
  images, left_out = [], Counter()
  for entry in _entries(folder):
    if _is_hidden(entry.name):
      left_out["hidden"] += 1
    elif entry.is_dir():
      left_out["nested folder"] += 1
    elif not entry.is_file():
      left_out["broken link or special file"] += 1
    elif os.path.splitext(entry.name)[1].lower() in FORMATS:
      images.append(entry.name)
    else:
      left_out[os.path.splitext(entry.name)[1].lower() or "without a suffix"] += 1
  return images, left_out


def _entries(folder):
  """Returns what a folder holds, sorted by name; raises UserError where it cannot be read."""
  try:
    with os.scandir(folder) as entries:
      return sorted(entries, key=lambda entry: entry.name)
  except OSError as error:
    raise UserError(f"folder {folder} cannot be read ({error.strerror}).") from error


def _is_hidden(name):
  """Tells whether a user did not put a file or folder of this name there."""
  return name.startswith(".") or name in HIDDEN


def _check_classes(root, splits):
  """Raises UserError where the splits' classes make a run meaningless."""
  where = f"config.data.data_dir is {root!r}"
  if not any(contents.images for contents in splits.values()):
    raise UserError(f"{where}, where no image is found: it must hold SPLIT/CLASS/IMAGE, such as train/cat/1.jpg.")
  for split, contents in splits.items():
    if not contents.images:
      raise UserError(
          f"{where}, whose split {split!r} has no class folder: it must hold CLASS/IMAGE, such as cat/1.jpg.")
  for split, contents in splits.items():
    for other, others in splits.items():
      missing = sorted(set(contents.images) - set(others.images))
      if missing:
        raise UserError(
            f"{where}: split {split!r} has class {_listed(missing)}, split {other!r} does not{_twin(missing, others)};"
            " the splits of a run must have the same classes.")
  empty = [
      f"{split}/{name}" for split, contents in splits.items() for name, images in contents.images.items() if not images]
  if empty:
    held = sum((_list_class(os.path.join(root, folder))[1] for folder in empty), Counter())
    holding = f" (left out: {in_words(held)})" if held else ""
    raise UserError(
        f"{where}: no image lies directly in class folder {_listed(empty)}{holding}; every class needs images, and they"
        f" must be {', '.join(FORMATS)}.")


def _twin(missing, others):
  """Returns a remark for a name that another split writes with other letters of the same meaning, or ""."""
  def plain(name):
    return unicodedata.normalize("NFKC", name).casefold().strip()

  for name in missing:
    for other in others.images:
      if plain(name) == plain(other):
        return f", but {other!a}, which differs from {name!a} in upper and lower case, spaces or Unicode form"
  return ""


def in_words(left_out: Mapping[str, int]) -> str:
  """Returns how many files and folders are left out for which reason: "2 x .webp, 3 x hidden"."""
  return ", ".join(f"{count} x {reason}" for reason, count in sorted(left_out.items()))


def _listed(names):
  """Returns the first names, quoted, and how many more there are."""
  listed = ", ".join(map(repr, names[:_NAMES_LISTED]))
  return listed + (f" and {len(names) - _NAMES_LISTED} more" if len(names) > _NAMES_LISTED else "")
