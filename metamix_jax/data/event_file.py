"""Writes scalars for TensorBoard.

An event file is a TFRecord file of Event messages, which TensorFlow's core can write.
tf.summary.scalar and flax.metrics.tensorboard also need the package tensorboard, which only a reader should need.
"""

from collections.abc import Mapping
import os
import pathlib
import time
from typing import Any

import tensorflow as tf

_Summary = tf.compat.v1.Summary


class EventFile:
  """Writes an event file in a folder; a run that is continued adds another one, and TensorBoard shows them as one."""

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    self._writer: Any = None

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Appends one event: the value of each tag at a step.

    Raises:
      OSError: the file cannot be written.
    """
    summary = _Summary(value=[_Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()])
    try:
      if self._writer is None:
        self._folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard looks for "tfevents" and reads the files in the order of their names.
        self._writer = tf.io.TFRecordWriter(str(self._folder / f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"))
        self._append(file_version="brain.Event:2")
      self._append(step=step, summary=summary)
      self._writer.flush()
    except tf.errors.OpError as error:
      raise OSError(error.error_code, error.message) from error

  def _append(self, **fields):
    self._writer.write(tf.compat.v1.Event(wall_time=time.time(), **fields).SerializeToString())
