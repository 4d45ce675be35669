"""Steps mapped over the devices, and batches split between them; the only file that uses jax.pmap.

States are never stacked: they go in and come out unmapped (in_axes=None, out_axes=None) and stay replicated
arrays between steps. Only batches carry a leading device axis.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
import functools
from typing import Any, NamedTuple

import jax
from jax import Array
import numpy as np

from metamix_jax.training import steps

# Enough to hide the host's work. Without a bound the host would fill the devices with waiting batches, and XLA's CPU
# devices would stop for ever: a program beyond the 32nd in flight on one device holds a thread of their shared pool,
# and the step that it waits for may need that thread for an all-reduce.
STEPS_AHEAD = 2


class Steps(NamedTuple):
  """Holds the pure functions of one replica; a fork replaces one of them: Steps(bit_search_steps=my_steps)."""

  teacher_targets: Callable = steps.teacher_targets
  label_targets: Callable = steps.label_targets
  weight_step: Callable = steps.weight_step
  bit_meta_step: Callable = steps.bit_meta_step
  bit_search_steps: Callable = steps.bit_search_steps
  evaluation_step: Callable = steps.evaluation_step
  image_scores_step: Callable = steps.image_scores_step
  calibration_step: Callable = steps.calibration_step
  input_range_step: Callable = steps.input_range_step
  batch_moments_step: Callable = steps.batch_moments_step


STEPS = Steps()


class Programs(NamedTuple):
  """Holds the steps mapped over devices; each compiles once for each structure of its trees.

  A training step takes over the buffers of the state that it replaces (donation), so do not use that state again.

  Attributes:
    devices: devices of this process.
    teacher_targets ... batch_moments_step: as in Steps; arrays of a batch are [devices, N / devices, ...].
  """

  devices: tuple[jax.Device, ...]
  teacher_targets: Callable
  label_targets: Callable
  weight_step: Callable
  bit_meta_step: Callable
  bit_search_steps: Callable
  evaluation_step: Callable
  image_scores_step: Callable
  calibration_step: Callable
  input_range_step: Callable
  batch_moments_step: Callable


def make_programs(
    devices: Sequence[jax.Device] | None = None, functions: Steps = STEPS, matmul_precision: str = "highest"
) -> Programs:
  """Maps steps over devices.

  Args:
    devices: the devices of this process to use; None: all devices of all processes.
    functions: the steps of one replica.
    matmul_precision: of all products of matrices and convolutions, gradients included, as in config.matmul_precision.
  """
  def over_devices(step, num_unmapped, out_axes=None, static=(), donated=()):
    return jax.pmap(
        _at_matmul_precision(step, matmul_precision), axis_name=steps.AXIS, in_axes=(None,) * num_unmapped + (0,),
        out_axes=out_axes, static_broadcasted_argnums=static, donate_argnums=donated, devices=devices)

  return Programs(
      devices=tuple(devices or jax.local_devices()),
      teacher_targets=over_devices(functions.teacher_targets, 1, out_axes=0),
      label_targets=over_devices(functions.label_targets, 1, out_axes=0, static=(0,)),
      weight_step=over_devices(functions.weight_step, 2, donated=0),
      bit_meta_step=over_devices(functions.bit_meta_step, 1, donated=0),
      bit_search_steps=over_devices(functions.bit_search_steps, 2, donated=0),
      evaluation_step=over_devices(functions.evaluation_step, 2),
      image_scores_step=over_devices(functions.image_scores_step, 2, out_axes=0),
      calibration_step=over_devices(functions.calibration_step, 1),
      input_range_step=over_devices(functions.input_range_step, 1),
      batch_moments_step=over_devices(functions.batch_moments_step, 2))


def _at_matmul_precision(step, precision):
  @functools.wraps(step)
  def at_precision(*arguments):
    # Around the whole step: hand-written gradients are traced after the forward pass.
    with jax.default_matmul_precision(precision):
      return step(*arguments)

  return at_precision


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
  """Splits batches over the devices, and moves each one there while the `ahead` batches before it are computed.

  Args:
    batches: batches of this process, arrays [N, ...].
    devices: devices of this process.
    ahead: number of batches in flight.

  Yields:
    Batches of arrays [devices, N / devices, ...].

  Raises:
    ValueError: the devices do not divide N.
  """
  sharding = jax.sharding.NamedSharding(_mesh(devices), jax.sharding.PartitionSpec(steps.AXIS))
  waiting = collections.deque()
  for batch in batches:
    waiting.append(jax.device_put(split_batch(batch, len(devices)), sharding))
    if len(waiting) > ahead:
      yield waiting.popleft()
  yield from waiting


def fetch(results: Iterable[Any], ahead: int = STEPS_AHEAD) -> Iterator[Any]:
  """Yields results on the host; fetches each one while the `ahead` steps after it run on the devices.

  Args:
    results: trees of arrays that the programs return; a generator that calls the program for each item.
    ahead: number of steps in flight.
  """
  waiting = collections.deque()
  for result in results:
    waiting.append(result)
    if len(waiting) > ahead:
      yield jax.device_get(waiting.popleft())
  while waiting:
    yield jax.device_get(waiting.popleft())


class StepsInFlight:
  """Keeps the host at most a few steps ahead of the devices; moves no value to the host.

  Attributes:
    ahead: number of steps in flight.
  """

  def __init__(self, ahead: int = STEPS_AHEAD):
    self.ahead = ahead
    self._outputs = collections.deque()

  def add(self, outputs: Any) -> None:
    """Counts a step that was just dispatched; `outputs` are its arrays that the next step does not take over."""
    self._outputs.append(outputs)
    if len(self._outputs) > self.ahead:
      jax.block_until_ready(self._outputs.popleft())

  def done(self) -> bool:
    """Tells whether no step is in flight; does not wait."""
    return all(array.is_ready() for outputs in self._outputs for array in jax.tree.leaves(outputs))

  def wait(self) -> None:
    """Waits until no step is in flight."""
    while self._outputs:
      jax.block_until_ready(self._outputs.popleft())


def replicate(state, devices: Sequence[jax.Device]):
  """Returns a state as arrays replicated over the devices, as the programs return it.

  A program compiles again for every other placement of its arguments. A state of NumPy arrays, or on a single device,
  would compile it in the first step and again in the second.
  """
  return jax.device_put(state, jax.sharding.NamedSharding(_mesh(devices), jax.sharding.PartitionSpec()))


def _mesh(devices):
  return jax.sharding.Mesh(np.array(devices), (steps.AXIS,))
