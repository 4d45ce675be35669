"""The only file that knows jax.pmap: steps over the devices, batches split between them.

States are never stacked: they go in and come out unmapped (in_axes=None, out_axes=None) and stay replicated
arrays between steps. Only batches carry a leading device axis.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from jax import Array
import numpy as np

from metamix_jax.training import steps

# Enough to hide the host's work. A host without a bound would fill the devices with batches that wait, and stop XLA's
# CPU devices for ever: a program beyond the 32nd in flight on one of them holds a thread of the pool that they share,
# and the step it waits for may need that thread to reach the others in an all-reduce.
STEPS_AHEAD = 2


class Steps(NamedTuple):
  """The pure functions of one replica that a run is made of; a fork replaces one: Steps(bit_search_steps=my_steps)."""

  teacher_targets: Callable = steps.teacher_targets
  label_targets: Callable = steps.label_targets
  weight_step: Callable = steps.weight_step
  bit_meta_step: Callable = steps.bit_meta_step
  bit_search_steps: Callable = steps.bit_search_steps
  evaluation_step: Callable = steps.evaluation_step
  calibration_step: Callable = steps.calibration_step
  batch_moments_step: Callable = steps.batch_moments_step


STEPS = Steps()


class Programs(NamedTuple):
  """Steps mapped over devices. Each compiles once for each structure of its trees.

  The state that a training step replaces is donated to it: its buffers hold the new one, and it must not be used again.

  Attributes:
    devices: of this process.
    teacher_targets ... batch_moments_step: as in Steps, with batches that have a leading device axis.
  """

  devices: tuple[jax.Device, ...]
  teacher_targets: Callable
  label_targets: Callable
  weight_step: Callable
  bit_meta_step: Callable
  bit_search_steps: Callable
  evaluation_step: Callable
  calibration_step: Callable
  batch_moments_step: Callable


def make_programs(devices: Sequence[jax.Device] | None = None, functions: Steps = STEPS) -> Programs:
  """Maps steps over devices.

  Args:
    devices: None: all local ones of this process and their peers.
    functions: the steps of one replica.
  """
  def over_devices(step, num_unmapped, out_axes=None, static=(), donated=()):
    return jax.pmap(
        step, axis_name=steps.AXIS, in_axes=(None,) * num_unmapped + (0,), out_axes=out_axes,
        static_broadcasted_argnums=static, donate_argnums=donated, devices=devices)

  return Programs(
      devices=tuple(devices or jax.local_devices()),
      teacher_targets=over_devices(functions.teacher_targets, 1, out_axes=0),
      label_targets=over_devices(functions.label_targets, 1, out_axes=0, static=(0,)),
      weight_step=over_devices(functions.weight_step, 2, donated=0),
      bit_meta_step=over_devices(functions.bit_meta_step, 1, donated=0),
      bit_search_steps=over_devices(functions.bit_search_steps, 2, donated=0),
      evaluation_step=over_devices(functions.evaluation_step, 2),
      calibration_step=over_devices(functions.calibration_step, 1),
      batch_moments_step=over_devices(functions.batch_moments_step, 2))


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
    batches: Iterable[dict[str, np.ndarray]], devices: Sequence[jax.Device], ahead: int = STEPS_AHEAD
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


def fetch(results: Iterable[Any], ahead: int = STEPS_AHEAD) -> Iterator[Any]:
  """Values on the host, each fetched while the `ahead` steps after it are on the devices.

  Args:
    results: trees of arrays that the programs return; a generator that calls the program when it is asked.
    ahead: steps in flight.
  """
  waiting = collections.deque()
  for result in results:
    waiting.append(result)
    if len(waiting) > ahead:
      yield jax.device_get(waiting.popleft())
  while waiting:
    yield jax.device_get(waiting.popleft())


class StepsInFlight:
  """Lets the host be no more than a few steps ahead of the devices; waits, and moves no value to the host.

  Attributes:
    ahead: steps in flight.
  """

  def __init__(self, ahead: int = STEPS_AHEAD):
    self.ahead = ahead
    self._outputs = collections.deque()

  def add(self, outputs: Any) -> None:
    """Counts a step that was just dispatched; `outputs` are arrays of it that are not donated to the next."""
    self._outputs.append(outputs)
    if len(self._outputs) > self.ahead:
      jax.block_until_ready(self._outputs.popleft())

  def wait(self) -> None:
    """Returns when no step is in flight."""
    while self._outputs:
      jax.block_until_ready(self._outputs.popleft())


def replicate(state, devices: Sequence[jax.Device]):
  """The state as arrays replicated over the devices, just as the programs return it.

  A program compiles once more for every other placement of its arguments: a state that starts as NumPy arrays or
  on a single device would have it compiled in the first step and again in the second.
  """
  return jax.device_put(state, jax.sharding.NamedSharding(_mesh(devices), jax.sharding.PartitionSpec()))


def _mesh(devices):
  return jax.sharding.Mesh(np.array(devices), (steps.AXIS,))
