"""The targets of a phase (M9): labels, a teacher's probabilities, or a teacher's probabilities from disk."""

import collections
from collections.abc import Iterator
import hashlib
import pathlib

import jax
import numpy as np

from metamix_jax.records import multihost
from metamix_jax.records.kept_targets import WHOLE, KeptTargets, WholeTargets
from metamix_jax.records.summary import version_of
from metamix_jax.records.workdir import CHANGEABLE
from metamix_jax.training.context import TrainingContext
from metamix_jax.training.fingerprint import digest_of_tree
from metamix_jax.training.program_identity import host
from metamix_jax.training.state import Teacher

HostBatch = dict[str, np.ndarray]
Batch = dict[str, jax.Array]


class LabelTargets:
  """Makes one-hot labels of every batch."""

  def __init__(self, context: TrainingContext):
    self._context = context

  def read(self, batches: Iterator[HostBatch], epoch: int, first_batch: int) -> Iterator[HostBatch]:
    """Returns the batches of an epoch of the run with the targets that are on disk: here, as they are."""
    del epoch, first_batch
    return batches

  def add(self, batch: Batch) -> Batch:
    """Adds the targets to a batch on the devices; batches come in the order of `read`."""
    return self._context.programs.label_targets(self._context.data.num_classes, batch)

  def close(self) -> None:
    """Ends the phase."""


class TeacherTargets(LabelTargets):
  """Makes the teacher's probabilities of every batch."""

  def __init__(self, context: TrainingContext, teacher: Teacher):
    super().__init__(context)
    self._teacher = teacher

  def add(self, batch: Batch) -> Batch:
    """Adds the targets to a batch on the devices."""
    return self._context.programs.teacher_targets(self._teacher, batch)


class KeptTeacherTargets(TeacherTargets):
  """Makes the teacher's probabilities of a batch once, and reads them from then on, bit for bit.

  The images of a batch are a function of the seed, the epoch of the run and the batch's place in it, so every start of
  a run, every target and every run of a sweep with the same seed meets the same batches. The program of the teacher is
  traced to name the folder, and compiled only for a batch that is not there.
  """

  def __init__(
      self, context: TrainingContext, teacher: Teacher, root: pathlib.Path, max_bytes: float,
      code: WholeTargets = WHOLE,
  ):
    """Opens the folder; raises UserError as KeptTargets does.

    Args:
      context: of the run.
      teacher: makes the targets that are not there.
      root: folder of all kept targets.
      max_bytes: of all of them.
      code: what is kept of them.
    """
    super().__init__(context, teacher)
    batch_size = context.config.batch_size // jax.process_count()
    self._kept = KeptTargets(
        root, _facts(context, teacher, batch_size) | code.facts,
        (context.data.steps_per_epoch, batch_size, context.data.num_classes),
        (jax.process_index(), jax.process_count()), max_bytes, code)
    self._places: collections.deque[tuple[int, int] | None] = collections.deque()  # None: nothing to write.
    self._computed: tuple[tuple[int, int], jax.Array] | None = None

  def read(self, batches: Iterator[HostBatch], epoch: int, first_batch: int) -> Iterator[HostBatch]:
    """Yields the batches of an epoch of the run, with "target" where every process has its part on disk.

    Otherwise all of them run the teacher, because a program over all devices needs all processes.
    """
    for number, batch in enumerate(batches, first_batch):
      targets = self._kept.read(epoch, number)
      if multihost.total(int(targets is None)):
        targets = None
      self._places.append((epoch, number) if targets is None else None)
      yield batch if targets is None else batch | {"target": targets}

  def add(self, batch: Batch) -> Batch:
    """Adds the targets to a batch on the devices, and writes those of the batch before where they are new."""
    place = self._places.popleft()
    self._write_computed()
    if place is None:
      return batch
    batch = super().add(batch)
    self._computed = place, batch["target"]
    return batch

  def close(self) -> None:
    """Waits until everything is written."""
    self._write_computed()
    self._kept.flush()

  def _write_computed(self):
    """Writes what was computed for the batch before; to write it at once would make the host wait for the devices."""
    if self._computed is not None:
      place, targets = self._computed
      self._kept.write(*place, _on_host(targets))
      self._computed = None


class KeptTopTargets(KeptTeacherTargets):
  """Keeps a few of the teacher's probabilities; trains on what it keeps from the first time on.

  So a run does not depend on what is in the folder. A new batch makes the host wait for the teacher.
  """

  def add(self, batch: Batch) -> Batch:
    """Adds the targets to a batch on the devices."""
    place = self._places.popleft()
    if place is None:
      return batch
    targets = _on_host(super(KeptTeacherTargets, self).add(batch)["target"])
    self._kept.write(*place, targets)
    return batch | next(self._context.place(iter([{"target": self._kept.as_read(targets)}])))


def _on_host(targets):
  """Returns this process's part of targets [devices, N / devices, classes] as one array [N, classes]."""
  shards = sorted(targets.addressable_shards, key=lambda shard: shard.index[0].start or 0)
  return np.concatenate([np.asarray(shard.data)[0] for shard in shards])


def _facts(context, teacher, batch_size):
  """Returns everything that the targets of a batch depend on: its images, the teacher, and the program."""
  devices = context.programs.devices
  shape = (len(devices), batch_size // len(devices))
  batch = {"image": jax.ShapeDtypeStruct((*shape, *context.data.image_shape), np.uint8),
           "label": jax.ShapeDtypeStruct(shape, np.int32)}
  program = context.programs.teacher_targets.lower(teacher, batch).as_text()
  return {
      "data": context.data.description, "seed": context.config.seed, "batch_size": context.config.batch_size,
      "processes": jax.process_count(), "devices": [devices[0].device_kind, len(devices)], "host": host(),
      "fields": {name: value for name, value in context.config.data.to_dict().items()
                 if f"data.{name}" not in CHANGEABLE},
      "teacher": digest_of_tree((teacher.weights, teacher.batch_stats)),
      "program": hashlib.sha256(program.encode()).hexdigest(),
      # What decodes, shuffles and crops the images.
      "versions": {name: version_of(name) for name in (
          "jaxlib", "metamix_jax", "numpy", "tensorflow", "tensorflow-datasets")}}
