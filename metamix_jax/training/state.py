"""The two states of MetaMix: the meta-state and the architecture state, each with its own optimiser.

A step that does not return a MetaState cannot change one, so bits are searched on a fixed meta-state.
"""

from collections.abc import Mapping, Sequence
import functools

from flax import struct, traverse_util
import jax
from jax import Array
import jax.numpy as jnp
import optax

from metamix_jax.method.bit_mixture import initial_alpha
from metamix_jax.method.bops import choices
from metamix_jax.method.quantizers import keep_positive
from metamix_jax.models.network import Network, Tree
from metamix_jax.nn.layers import activation_step_sizes, weight_step_sizes
from metamix_jax.training.search_limits import SearchLimits


class MetaState(struct.PyTreeNode):
  """Holds weights, step sizes and batch-norm statistics, and the optimiser that trains them.

  Attributes:
    step: number of steps so far, int32 scalar.
    bad_step: number of the first step whose loss or gradient was not finite, int32 scalar; 0 for none. This step and
      all later ones change nothing else.
    seed: seed of the run's random numbers, such as dropout masks, uint32 scalar.
    phase: number of the training phase in records.names.TRAINING_PHASES, for the same numbers, int32 scalar.
    weights: the collection `params`.
    step_sizes: the collection `step_sizes`; {} before they are started.
    batch_stats: running statistics of batch norm.
    optimizer_state: state of `optimizer` on {"weights": ..., "step_sizes": ...}.
  """

  step: Array
  bad_step: Array
  seed: Array
  phase: Array
  weights: Tree
  step_sizes: Tree
  batch_stats: Tree
  optimizer_state: Tree
  network: Network = struct.field(pytree_node=False)
  optimizer: optax.GradientTransformation | None = struct.field(pytree_node=False)

  @property
  def trainable(self) -> dict:
    """Returns the trees that the weight-side optimiser updates."""
    return {"weights": self.weights, "step_sizes": self.step_sizes}

  def variables(self, precision: Tree) -> dict[str, Tree]:
    """Returns the collections that the network's module takes, at a precision (see method/precision.py)."""
    return {
        "params": self.weights, "step_sizes": self.step_sizes, "batch_stats": self.batch_stats, "precision": precision}

  def apply_gradients(self, gradients: Tree, loss: Array, batch_stats: Tree) -> "MetaState":
    """Applies one optimiser update to weights and step sizes; step sizes stay at or above their floor.

    Args:
      gradients: in the structure of `trainable`.
      loss: the loss of these gradients, scalar; if it or they are not finite, nothing is updated.
      batch_stats: the running statistics after this step.
    """
    updates, optimizer_state = _required(self.optimizer).update(gradients, self.optimizer_state, self.trainable)
    trainable: Tree = optax.apply_updates(self.trainable, updates)
    step, bad_step = _count_step(self, gradients, loss)
    updated = self.replace(
        weights=trainable["weights"],
        step_sizes=keep_positive(trainable["step_sizes"], self.network.step_size_floor),
        batch_stats=batch_stats,
        optimizer_state=optimizer_state,
    )
    return _if_finite(bad_step, updated, self).replace(step=step, bad_step=bad_step)

  def with_optimizer(self, optimizer: optax.GradientTransformation, phase: int = 0) -> "MetaState":
    """Returns the same weights, step sizes and statistics with a fresh optimiser at step 0, as a phase starts (M14).

    Args:
      optimizer: of the weight side.
      phase: number of the phase in records.names.TRAINING_PHASES.
    """
    return self.replace(
        step=jnp.zeros((), jnp.int32), bad_step=jnp.zeros((), jnp.int32), phase=jnp.int32(phase), optimizer=optimizer,
        optimizer_state=optimizer.init(self.trainable)
    )

  def without_optimizer(self) -> "MetaState":
    """Returns the state without its optimiser, so that all phases share one compiled program for evaluation."""
    return self.replace(optimizer=None, optimizer_state={})

  def with_activation_step_sizes(self, mean_magnitudes: Mapping[str, Array]) -> "MetaState":
    """Starts the step sizes [B] of every layer's input from mean|x|, a scalar by layer name (M4).

    Searched kernels get theirs as well, because the meta-state serves all of their candidates.
    """
    step_sizes = _start_activation_step_sizes(self.network, dict(mean_magnitudes))
    searched = tuple(layer for layer in self.network.layers if layer.candidate_weight_bits)
    return self.replace(step_sizes=_start_weight_step_sizes(self.network, searched, step_sizes, self.weights)
                        if searched else step_sizes)

  def with_weight_step_sizes(self) -> "MetaState":
    """Adds step sizes [out_channels] or [W, out_channels] of every kernel, so that weights are quantised (M4, M14)."""
    quantized = tuple(layer for layer in self.network.layers if layer.quantized)
    return self.replace(step_sizes=_start_weight_step_sizes(self.network, quantized, self.step_sizes, self.weights))

  def without_weight_step_sizes(self) -> "MetaState":
    """Returns the state with weights in full precision, as stage A of M14 trains them."""
    leaves = traverse_util.flatten_dict(self.step_sizes)
    return self.replace(step_sizes=traverse_util.unflatten_dict({
        path: leaf for path, leaf in leaves.items() if path[-1] != "weight"}))


# One program for all layers: operations alone would compile some two hundred programs, too small for any cache.
@functools.partial(jax.jit, static_argnums=0)
def _start_activation_step_sizes(network, mean_magnitudes):
  return traverse_util.unflatten_dict({
      (*layer.name.split("/"), "activation"): jnp.maximum(
          activation_step_sizes(mean_magnitudes[layer.name], layer.candidate_bits, layer.input_range),
          network.step_size_floor)
      for layer in network.layers if layer.quantized
  })


@functools.partial(jax.jit, static_argnums=(0, 1))
def _start_weight_step_sizes(network, layers, step_sizes, weights):
  step_sizes, kernels = traverse_util.flatten_dict(step_sizes), traverse_util.flatten_dict(weights)
  for layer in layers:
    path = tuple(layer.name.split("/"))
    start = weight_step_sizes(kernels[*path, "kernel"], layer.candidate_weight_bits or layer.weight_bits)
    step_sizes[*path, "weight"] = jnp.maximum(start, network.step_size_floor)
  return traverse_util.unflatten_dict(step_sizes)


class ArchState(struct.PyTreeNode):
  """Holds alpha of every searched layer, and the optimiser that trains it.

  For K targets, one ArchState holds K states: its arrays have a leading axis [K].

  Attributes:
    step: number of steps so far, int32 scalar.
    bad_step: as in MetaState.
    alpha: {name: [B]}, float32, of everything that the search chooses (bops.choices).
    optimizer_state: state of `optimizer` on alpha.
    target_gbops: target in GBOPs of one image, float32 scalar.
    penalty_weight: lambda of M11 in nats for one GBOP, float32 scalar.
    costs: {layer name: [B]} of every layer, float32, where the network has costs of its own; {} for BOPs. They are
      data, so another table runs in the same program; target and lambda are in their unit.
    limits: further limits with their multipliers; {} for none.
  """

  step: Array
  bad_step: Array
  alpha: dict[str, Array]
  optimizer_state: Tree
  target_gbops: Array
  penalty_weight: Array
  costs: dict[str, Array]
  limits: SearchLimits
  optimizer: optax.GradientTransformation = struct.field(pytree_node=False)

  def apply_gradients(self, gradients: Tree, loss: Array) -> "ArchState":
    """Applies one update to alpha and to the multipliers, or none if the loss or the gradients are not finite."""
    updates, optimizer_state = self.optimizer.update(gradients, self.optimizer_state, self.alpha)
    step, bad_step = _count_step(self, gradients, loss)
    updated = self.replace(
        alpha=optax.apply_updates(self.alpha, updates), optimizer_state=optimizer_state,
        limits={name: limit.after_step(self.alpha) for name, limit in self.limits.items()})
    return _if_finite(bad_step, updated, self).replace(step=step, bad_step=bad_step)


def _required(optimizer: optax.GradientTransformation | None) -> optax.GradientTransformation:
  if optimizer is None:
    raise ValueError("a state without an optimiser cannot be trained; give it one with with_optimizer.")
  return optimizer


def _count_step(state, gradients, loss):
  """Returns step and bad_step after one more step with these gradients and loss."""
  step = state.step + 1
  # The norm is finite if every gradient is; a norm that overflows is as bad as a gradient that is not finite.
  finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(gradients))
  return step, jnp.where((state.bad_step == 0) & ~finite, step, state.bad_step)


def _if_finite(bad_step, updated, before):
  return jax.tree.map(lambda new, old: jnp.where(bad_step == 0, new, old), updated, before)


class Teacher(struct.PyTreeNode):
  """Holds a frozen network in evaluation mode, which makes the soft targets (M9).

  Attributes:
    weights: the collection `params`.
    batch_stats: running statistics of batch norm.
    network: the static part; its quantisers are never used.
    dtype: dtype of its activations, "float32" or "bfloat16"; its logits are cast to float32.
  """

  weights: Tree
  batch_stats: Tree
  network: Network = struct.field(pytree_node=False)
  dtype: str = struct.field(pytree_node=False)


def create_meta_state(
    network: Network, optimizer: optax.GradientTransformation, image_shape: tuple[int, int, int], seed: int
) -> MetaState:
  """Initialises a full-precision network, which has no step sizes.

  Args:
    network: the static part.
    optimizer: of the weights.
    image_shape: (H, W, C).
    seed: of the weights and of the random numbers of training.
  """
  images = jnp.zeros((1, *image_shape), jnp.float32)
  # Other collections would only make the program larger.
  initialize = lambda key: network.module.init(key, images, train=False, mutable=("params", "batch_stats"))
  variables = jax.jit(initialize)(jax.random.key(seed))
  trainable = {"weights": variables["params"], "step_sizes": {}}
  return MetaState(
      step=jnp.zeros((), jnp.int32), bad_step=jnp.zeros((), jnp.int32), seed=jnp.uint32(seed),
      phase=jnp.zeros((), jnp.int32), weights=trainable["weights"], step_sizes={},
      batch_stats=variables.get("batch_stats", {}), optimizer_state=optimizer.init(trainable), network=network,
      optimizer=optimizer)


def create_arch_states(
    network: Network, optimizer: optax.GradientTransformation, *, seed: int, initial_std: float,
    targets_gbops: Sequence[float], penalty_weights: Sequence[float], limits: SearchLimits | None = None,
) -> ArchState:
  """Creates K architecture states, stacked on a leading axis [K]; each equals the state for its target alone.

  Args:
    network: each of its searched layers and kernels gets an alpha.
    optimizer: of alpha.
    seed: seed of the random start of alpha (M5), the same for each target; each searched layer has its key.
    initial_std: standard deviation of the start.
    targets_gbops: K targets in GBOPs of one image.
    penalty_weights: lambda of M11 for each target, in nats for one GBOP.
    limits: further limits, at their start; None: no limits.
  """
  searched, candidates = network.searched_layers, choices(network.layers)
  key = jax.random.key(seed)
  # Kernels have keys of their own, so that layers start where they start without them.
  keys = [*jax.random.split(key, len(searched)),
          *jax.random.split(jax.random.fold_in(key, 1), len(candidates) - len(searched))]
  alpha = {
      name: initial_alpha(key, len(bits), initial_std)
      for (name, bits), key in zip(candidates.items(), keys, strict=True)
  }
  states = [ArchState(
      step=jnp.zeros((), jnp.int32), bad_step=jnp.zeros((), jnp.int32), alpha=alpha,
      optimizer_state=optimizer.init(alpha), target_gbops=jnp.float32(target),
      penalty_weight=jnp.float32(penalty_weight),
      costs={layer.name: jnp.array(layer.cost.values, jnp.float32) for layer in network.layers if layer.cost},
      limits=limits or {}, optimizer=optimizer,
  ) for target, penalty_weight in zip(targets_gbops, penalty_weights, strict=True)]
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
