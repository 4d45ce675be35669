"""Synthetic states and batches for the steps of a config: to measure the steps, and to compile them ahead of time.

Nothing is trained and no data set is read. Under jax.eval_shape the same functions return only shapes.
"""

from typing import NamedTuple

import jax
import ml_collections
import numpy as np

from metamix_jax.config import STUDENT
from metamix_jax.method.bops import lowest_bits
from metamix_jax.method.precision import FULL_PRECISION, assigned_precision
from metamix_jax.records.names import targets
from metamix_jax.training import parallel
from metamix_jax.training.context import penalty_weights
from metamix_jax.training.optimizers import arch_optimizer, weight_optimizer
from metamix_jax.training.state import (
  ArchState,
  MetaState,
  Network,
  Teacher,
  create_arch_states,
  create_meta_state,
)

FULL_PRECISION_STEP, TEACHER_STEP = "F: full precision", "T: teacher"


class States(NamedTuple):
  """Holds the arguments of all steps of a run.

  Attributes:
    full_precision: for pretraining and, through its precision tree, for evaluation: no step sizes.
    meta: with activation step sizes: for the bit-meta step, the bit-search step and stage A.
    stage_b: with weight step sizes as well.
    archs: the architecture states, one for each target, stacked.
    teacher: None where the targets are labels.
  """

  full_precision: MetaState
  meta: MetaState
  stage_b: MetaState
  archs: ArchState
  teacher: Teacher | None


def create_states(
    config: ml_collections.ConfigDict, network: Network, teacher_network: Network | None, channels: int
) -> States:
  """Creates states of a config's networks at their random start; every step size starts from mean|x| = 1.

  Args:
    config: a validated config.
    network: from context.build_networks.
    teacher_network: likewise, or None.
    channels: of the images.
  """
  image_shape = (config.data.image_size, config.data.image_size, channels)
  optimizer = weight_optimizer(config.bit_selection.learning_rate, **config.optimizer)
  full_precision = create_meta_state(network, optimizer, image_shape, config.seed)
  meta = full_precision.with_activation_step_sizes({layer.name: np.float32(1) for layer in network.layers})
  arch = config.arch
  archs = create_arch_states(
      network,
      arch_optimizer(arch.learning_rate, beta1=arch.beta1, beta2=arch.beta2, epsilon=arch.epsilon, l2=arch.l2),
      seed=config.seed, initial_std=arch.initial_std, targets_gbops=targets(config),
      penalty_weights=penalty_weights(config))
  teacher = None
  if config.teacher.name == STUDENT:
    teacher = Teacher(full_precision.weights, full_precision.batch_stats, network, config.teacher.dtype)
  elif teacher_network is not None:
    start = create_meta_state(teacher_network, optimizer, image_shape, config.seed)
    teacher = Teacher(start.weights, start.batch_stats, teacher_network, config.teacher.dtype)
  return States(
      full_precision, meta.with_optimizer(optimizer), meta.with_weight_step_sizes().with_optimizer(optimizer), archs,
      teacher)


def step_arguments(
    config: ml_collections.ConfigDict, network: Network, teacher_network: Network | None, programs: parallel.Programs
) -> dict[str, tuple[str, tuple]]:
  """Returns the arguments of all steps of a run, on the devices: {name: (field of Programs, arguments)}.

  Args:
    config: a validated config.
    network: from context.networks_without_data.
    teacher_network: likewise, or None.
    programs: from parallel.make_programs; the calibration step runs once.
  """
  channels, size = len(config.data.mean), config.data.image_size
  states = create_states(config, network, teacher_network, channels)
  shape = (size, size, channels)
  num_classes = num_outputs(states.full_precision, shape)
  batch, = parallel.place_batches([create_batch(config.batch_size, shape, num_classes)], programs.devices)
  states = parallel.replicate(states, programs.devices)
  magnitudes = programs.calibration_step(states.full_precision, batch)
  optimizer = states.meta.optimizer
  calibrated = states.full_precision.with_activation_step_sizes(jax.device_get(magnitudes))
  meta, stage_b, assigned = parallel.replicate((
      calibrated.with_optimizer(optimizer), calibrated.with_weight_step_sizes().with_optimizer(optimizer),
      assigned_precision(network.layers, lowest_bits(network.layers))), programs.devices)
  arguments: dict[str, tuple[str, tuple]] = {
      FULL_PRECISION_STEP: ("weight_step", (states.full_precision, FULL_PRECISION, batch)),
      "bit-meta": ("bit_meta_step", (meta, batch)),
      "bit-search": ("bit_search_steps", (states.archs, meta, batch)),
      "stage A": ("weight_step", (meta, assigned, batch)),
      "stage B": ("weight_step", (stage_b, assigned, batch)),
      "evaluation": ("evaluation_step", (meta.without_optimizer(), assigned, batch)),
  }
  if states.teacher is not None:
    arguments[TEACHER_STEP] = ("teacher_targets", (states.teacher, batch))
  return arguments


def num_outputs(meta: MetaState, image_shape: tuple[int, int, int]) -> int:
  """Returns the number of classes of a network, the width of its logits."""
  image = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
  variables = {"params": meta.weights, "batch_stats": meta.batch_stats}
  return jax.eval_shape(lambda v, x: meta.network.module.apply(v, x, train=False), variables, image).shape[-1]


def create_batch(
    batch_size: int, image_shape: tuple[int, int, int], num_classes: int, seed: int = 0
) -> dict[str, np.ndarray]:
  """Creates random images uint8 [N, H, W, C], labels int32 [N], targets float32 [N, classes], a mask of ones [N]."""
  rng = np.random.default_rng(seed)
  return {
      "image": rng.integers(0, 256, (batch_size, *image_shape), dtype=np.uint8),
      "label": rng.integers(0, num_classes, batch_size, dtype=np.int32),
      "target": rng.dirichlet(np.ones(num_classes), batch_size).astype(np.float32),
      "mask": np.ones(batch_size, np.float32),
  }


def batch_shapes(
    num_devices: int, batch_size: int, image_shape: tuple[int, int, int], num_classes: int
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of `create_batch`, split over devices."""
  each = (num_devices, batch_size // num_devices)
  return {
      "image": jax.ShapeDtypeStruct((*each, *image_shape), np.uint8),
      "label": jax.ShapeDtypeStruct(each, np.int32),
      "target": jax.ShapeDtypeStruct((*each, num_classes), np.float32),
      "mask": jax.ShapeDtypeStruct(each, np.float32),
  }
