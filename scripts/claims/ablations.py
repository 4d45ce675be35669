"""What the paper argues against, composed of the package's own steps: forks of a TrainingContext.

  searched_together       weights and bits move in every step; no bit-meta step, no fixed meta-state
  moving_weights          as the method, but the search's pass moves the weights as well
  last_width_alone        the release's arithmetic: the gradient of the last bit-width instead of the mean
"""

import dataclasses

import jax
import jax.numpy as jnp

from metamix_jax.method.bops import candidate_widths
from metamix_jax.method.precision import mixed_precision, precision_at_width
from metamix_jax.training import steps
from metamix_jax.training.context import TrainingContext
from metamix_jax.training.parallel import Steps, make_programs
from metamix_jax.training.state import ArchState, MetaState


def searched_together(context: TrainingContext) -> TrainingContext:
  """Replaces the method by a differentiable search of weights and bits together: one joint step a batch."""
  joint = joint_program(context)

  def alternation(programs, meta, archs, batch):
    del programs
    (meta, archs), metrics = joint(meta, archs, batch)
    return meta, archs, metrics

  return dataclasses.replace(context, alternation=alternation)


def moving_weights(context: TrainingContext) -> TrainingContext:
  """Replaces the bit-search step by a joint step: bits are then searched on weights that move with them."""
  joint = joint_program(context)

  def alternation(programs, meta, archs, batch):
    meta, metrics = programs.bit_meta_step(meta, batch)
    (meta, archs), search = joint(meta, archs, batch)
    return meta, archs, search | metrics  # The loss is the bit-meta step's, as without the fork.

  return dataclasses.replace(context, alternation=alternation)


def last_width_alone(context: TrainingContext) -> TrainingContext:
  """Replaces the bit-meta step by the release's: the gradient of the last bit-width alone [C]."""
  return dataclasses.replace(context, programs=_programs(context, Steps(bit_meta_step=last_width_step)))


def joint_program(context: TrainingContext):
  """Returns `joint_step` mapped over the devices; it takes the place of a step with as many unmapped arguments."""
  return _programs(context, Steps(weight_step=joint_step)).weight_step


def joint_step(meta: MetaState, archs: ArchState, batch: dict) -> tuple[tuple[MetaState, ArchState], dict]:
  """Updates alpha (M11) and, by the gradient of the same task loss, weights, step sizes and batch norm.

  Both steps pass the same mixtures of the same state through the network, in one program, so XLA computes the passes
  once.

  Args:
    meta: the state before the step.
    archs: alpha of one target, with a leading axis [1].
    batch: with its targets.

  Returns:
    Both states; {"loss": scalar, "search_loss": [1], "gbops": [1]}.

  Raises:
    ValueError: there are several targets, for which the weights would need several states.
  """
  if len(archs.target_gbops) != 1:
    raise ValueError(f"{len(archs.target_gbops)} targets are searched; weights can move for one alone.")
  arch = jax.tree.map(lambda leaf: leaf[0], archs)
  searched, metrics = steps.bit_search_step(arch, meta, batch)
  moved, _ = steps.weight_step(meta, mixed_precision(meta.network.layers, arch.alpha), batch)
  metrics = {
      "loss": metrics["task_loss"], "search_loss": metrics["task_loss"][None], "gbops": metrics["gbops"][None]}
  return (moved, jax.tree.map(lambda leaf: leaf[None], searched)), metrics


def last_width_step(meta: MetaState, batch: dict) -> tuple[MetaState, dict]:
  """Takes a bit-meta step by the gradient of the last and widest bit-width alone [C].

  As in M10, every bit-width has its forward pass in training mode, and moves the running statistics.

  Args:
    meta: with activation step sizes.
    batch: with its targets.

  Returns:
    As steps.bit_meta_step.
  """
  layers, losses, moved = meta.network.layers, [], meta
  for index in range(len(candidate_widths(layers))):
    start = meta.replace(batch_stats=moved.batch_stats)
    moved, metrics = steps.weight_step(start, precision_at_width(layers, jnp.int32(index)), batch)
    losses.append(metrics["loss"])
  losses = jnp.stack(losses)
  return moved, {"loss": jnp.mean(losses), "loss_by_candidate": losses}


def _programs(context, functions):
  return make_programs(
      context.programs.devices, functions=functions, matmul_precision=context.config.matmul_precision)

