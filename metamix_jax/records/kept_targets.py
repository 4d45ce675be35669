"""Teacher's targets on disk: each batch once, for every later run that would compute the same."""

import collections
from collections.abc import Mapping
import contextlib
import hashlib
import json
import logging
import os
import pathlib
from typing import Any

import numpy as np
import tensorstore as ts

from metamix_jax.errors import UserError
from metamix_jax.records.files import write_json

logger = logging.getLogger("metamix_jax")

FACTS = "facts.json"
# Zarr stores no chunk that was never written, so the first dimension costs nothing.
_MOST_EPOCHS = 2**31
# Batches that are written while training goes on.
_WRITES_AHEAD = 4
_COMPRESSION = 1  # Level of Zstandard: probabilities hardly compress.


class WholeTargets:
  """Keeps probabilities as they are, float32."""

  dtype: str = "float32"
  missing: Any = "NaN"  # In the place of what was never written.

  @property
  def facts(self) -> dict[str, Any]:
    """Returns what tells this code from others."""
    return {}

  def shape(self, num_classes: int) -> tuple[int, ...]:
    """Returns the shape of what is kept of one image."""
    return (num_classes,)

  def encode(self, targets: np.ndarray) -> np.ndarray:
    """Turns probabilities, float32 [N, classes], into what is kept, [N, *shape]."""
    return targets

  def decode(self, kept: np.ndarray, num_classes: int) -> np.ndarray | None:
    """Turns what is kept into probabilities, float32 [N, classes]; None if it was never written."""
    return None if np.isnan(kept[0, 0]) else kept


WHOLE = WholeTargets()


class TopTargets(WholeTargets):
  """Keeps the highest probabilities in float16 with their classes; all other classes share the rest equally [A].

  Attributes:
    number: of classes that are kept of one image.
  """

  # A float16 and a class are 16 bits each; a class of 65,535 says that nothing is there.
  dtype, missing = "uint16", 2**16 - 1

  def __init__(self, number: int):
    self.number = number

  @property
  def facts(self) -> dict[str, Any]:
    """Returns what tells this code from others."""
    return {"top": self.number}

  def shape(self, num_classes: int) -> tuple[int, ...]:
    """Returns the shape of what is kept of one image."""
    return (2, min(self.number, num_classes - 1))

  def encode(self, targets: np.ndarray) -> np.ndarray:
    """Turns probabilities into what is kept; of equal ones the first class."""
    classes = np.argsort(-targets, axis=1, kind="stable")[:, :self.shape(targets.shape[1])[1]]
    values = np.take_along_axis(targets, classes, 1).astype(np.float16)
    return np.stack([values.view(np.uint16), classes.astype(np.uint16)], axis=1)

  def decode(self, kept: np.ndarray, num_classes: int) -> np.ndarray | None:
    """Turns what is kept into probabilities that sum to 1."""
    values, classes = kept[:, 0].view(np.float16).astype(np.float32), kept[:, 1].astype(np.int64)
    if classes[0, 0] == self.missing:
      return None
    total = values.sum(axis=1, keepdims=True)
    values /= np.maximum(total, 1)  # Rounding may have made them more than 1.
    rest = np.maximum(1 - total, 0) / (num_classes - values.shape[1])
    targets = np.repeat(rest, num_classes, axis=1)
    np.put_along_axis(targets, classes, values, 1)
    return targets


class KeptTargets:
  """An array [epoch, batch, process, N, ...] in a folder: zarr, a file a batch, with a checksum each.

  A file appears as a whole or not at all, so several runs may read and write one folder. What one of them computes, all
  others compute too, bit for bit, because the folder is named after everything that targets depend on.

  Attributes:
    folder: ROOT/NAME.
  """

  def __init__(
      self, root: pathlib.Path, facts: Mapping[str, Any], shape: tuple[int, int, int], process: tuple[int, int],
      max_bytes: float, code: WholeTargets = WHOLE,
  ):
    """Opens or makes the array.

    Args:
      root: folder of all kept targets, of any run.
      facts: everything that targets depend on, JSON; written beside the array.
      shape: (batches in an epoch, images of a batch of this process, classes).
      process: (number of this process, number of processes).
      max_bytes: bytes of all files under `root`, from which on nothing more is written.
      code: what is kept of the targets.

    Raises:
      UserError: the folder cannot be written, or holds something else.
    """
    text = json.dumps(facts, sort_keys=True)
    self.folder = root / hashlib.sha256(text.encode()).hexdigest()[:16]
    self._process, num_processes = process
    num_batches, batch_size, self._num_classes = shape
    self._code, of_image = code, code.shape(self._num_classes)
    try:
      self.folder.mkdir(parents=True, exist_ok=True)
      if not (self.folder / FACTS).exists():
        write_json(self.folder / FACTS, facts)
      self._array = ts.open({
          "driver": "zarr3", "kvstore": {"driver": "file", "path": f"{self.folder.absolute()}/targets.zarr/"},
          "metadata": {
              "shape": [_MOST_EPOCHS, num_batches, num_processes, batch_size, *of_image], "data_type": code.dtype,
              "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 1, 1, batch_size, *of_image]}},
              "fill_value": code.missing,
              "codecs": [{"name": "bytes", "configuration": {"endian": "little"}},
                         {"name": "zstd", "configuration": {"level": _COMPRESSION}}, {"name": "crc32c"}]},
      }, create=True, open=True).result()
    except (OSError, ValueError) as error:
      raise UserError(f"config.teacher.kept_targets: {self.folder} cannot be used ({_words(error)}).") from error
    self._room = max_bytes - _bytes_under(root)
    self._max_bytes, self._writes = max_bytes, collections.deque()

  def read(self, epoch: int, number: int) -> np.ndarray | None:
    """Returns the targets of a batch, float32 [N, classes]; None if they were never computed, or their file is damaged.

    Args:
      epoch: of the run.
      number: of the batch in the epoch.
    """
    try:
      kept = self._array[epoch, number, self._process].read().result()
    except ValueError as error:
      logger.warning("kept targets: %s; the teacher makes it again", _words(error))
      return None
    return self._code.decode(kept, self._num_classes)

  def write(self, epoch: int, number: int, targets: np.ndarray) -> None:
    """Writes the targets of a batch, float32 [N, classes], while the caller goes on.

    If a write fails, because the disk is full or the folder is gone, the log says so, and nothing more is written:
    training needs no kept targets.
    """
    if self._room <= 0:
      return
    kept = self._code.encode(targets)
    self._room -= kept.nbytes
    if self._room <= 0:
      logger.warning(
          "kept targets: %s is full at %.3g GB; from epoch %d, batch %d on the teacher makes what is not there",
          self.folder.parent, self._max_bytes / 1e9, epoch, number)
    self._writes.append(self._array[epoch, number, self._process].write(kept))
    if len(self._writes) > _WRITES_AHEAD:
      self._finish(self._writes.popleft())

  def as_read(self, targets: np.ndarray) -> np.ndarray:
    """Returns targets, float32 [N, classes], as `read` returns them once they are written."""
    decoded = self._code.decode(self._code.encode(targets), self._num_classes)
    return targets if decoded is None else decoded

  def flush(self) -> None:
    """Waits until everything is written."""
    while self._writes:
      self._finish(self._writes.popleft())

  def _finish(self, write):
    try:
      write.result()
    except (OSError, ValueError) as error:
      self._room = 0
      logger.warning("kept targets: %s cannot be written (%s); no more are kept", self.folder, _words(error))


def _bytes_under(root):
  """Returns the bytes of all files; another run may rename or delete some meanwhile."""
  total = 0
  for folder, _, names in os.walk(root):
    for name in names:
      with contextlib.suppress(OSError):
        total += os.stat(os.path.join(folder, name)).st_size
  return total


def _words(error):
  """Returns what TensorStore says, without the places in its source."""
  return str(error).splitlines()[0].split(" [source locations")[0].rstrip(".")
