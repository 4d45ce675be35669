"""The only file that knows jax.pmap: steps over the devices, batches split between them.

States are never stacked: they go in and come out unmapped (in_axes=None, out_axes=None) and stay replicated
arrays between steps. Only batches carry a leading device axis.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
from jax import Array
import numpy as np

from metamix_jax import steps


class Programs(NamedTuple):
  """The steps of steps.py, mapped over devices. Each compiles once for each structure of its trees.

  The state that a training step replaces is donated to it: its buffers hold the new one, and it must not be used again.
  """

  devices: tuple
  teacher_targets: Callable
  label_targets: Callable
  weight_step: Callable
  bit_meta_step: Callable
  bit_search_steps: Callable
  evaluation_step: Callable
  calibration_step: Callable
  batch_moments_step: Callable


def make_programs(devices: Sequence[jax.Device] | None = None) -> Programs:
  """Maps the steps over `devices`, by default all local ones of this process and their peers."""
  chosen = tuple(devices or jax.local_devices())

  def over_devices(step, num_unmapped, out_axes=None, static=(), donated=()):
    return jax.pmap(
        step, axis_name=steps.AXIS, in_axes=(None,) * num_unmapped + (0,), out_axes=out_axes,
        static_broadcasted_argnums=static, donate_argnums=donated, devices=devices,
    )

  return Programs(
      devices=chosen,
      teacher_targets=over_devices(steps.teacher_targets, 1, out_axes=0),
      label_targets=over_devices(steps.label_targets, 1, out_axes=0, static=(0,)),
      weight_step=over_devices(steps.weight_step, 2, donated=0),
      bit_meta_step=over_devices(steps.bit_meta_step, 1, donated=0),
      bit_search_steps=over_devices(steps.bit_search_steps, 2, donated=0),
      evaluation_step=over_devices(steps.evaluation_step, 2),
      calibration_step=over_devices(steps.calibration_step, 1),
      batch_moments_step=over_devices(steps.batch_moments_step, 2),
  )


def split_batch(batch: dict[str, np.ndarray], num_devices: int) -> dict[str, np.ndarray | Array]:
  """Gives every array [N, ...] of a batch a leading device axis: [devices, N / devices, ...].

  Raises:
    ValueError: the devices do not divide N.
  """
  def split(values):
    if values.shape[0] % num_devices:
      raise ValueError(
          f"a batch of {values.shape[0]} images cannot be split over {num_devices} devices; "
          f"allowed are multiples of {num_devices}.")
    return values.reshape(num_devices, values.shape[0] // num_devices, *values.shape[1:])

  return {name: split(values) for name, values in batch.items()}


def place_batches(
    batches: Iterable[dict[str, np.ndarray]], devices: Sequence[jax.Device], ahead: int = 2
) -> Iterator[dict[str, Array]]:
  """Batches split over the devices and on their way to them while the `ahead` batches before are computed.

  Args:
    batches: of this process, arrays [N, ...].
    devices: of this process.
    ahead: batches in flight.
  """
  sharding = jax.sharding.NamedSharding(_mesh(devices), jax.sharding.PartitionSpec(steps.AXIS))
  waiting = collections.deque()
  for batch in batches:
    waiting.append(jax.device_put(split_batch(batch, len(devices)), sharding))
    if len(waiting) > ahead:
      yield waiting.popleft()
  yield from waiting


def replicate(state, devices: Sequence[jax.Device]):
  """The state as arrays replicated over the devices, just as the programs return it.

  A program compiles once more for every other placement of its arguments: a state that starts as NumPy arrays or
  on a single device would have it compiled in the first step and again in the second.
  """
  return jax.device_put(state, jax.sharding.NamedSharding(_mesh(devices), jax.sharding.PartitionSpec()))


def _mesh(devices):
  return jax.sharding.Mesh(np.array(devices), (steps.AXIS,))
