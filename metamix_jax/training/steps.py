"""The steps of MetaMix, pure functions of one replica; collectives run over the axis "batch".

A batch is {"image": uint8 [N, H, W, C], "label": int32 [N]}. `teacher_targets` and `label_targets` add "target",
float32 [N, classes]. N is the part of the global batch on this replica. parallel.py maps the steps over devices.
"""

from flax import traverse_util
import jax
from jax import Array
import jax.numpy as jnp
import optax

from metamix_jax.method.bit_mixture import straight_through_selection
from metamix_jax.method.bops import candidate_widths, choices, complete_bits, gbops
from metamix_jax.method.losses import cost_penalty, soft_cross_entropy
from metamix_jax.method.precision import FULL_PRECISION, mixed_precision, precision_at_width
from metamix_jax.models.network import Network, Tree
from metamix_jax.nn.batch_random import GENERATOR, batch_key
from metamix_jax.training.search_limits import limits_penalty
from metamix_jax.training.state import ArchState, MetaState, Teacher

AXIS = "batch"
Batch = dict[str, Array]
Metrics = dict[str, Array]
# The passes that may draw random numbers; each has keys of its own (_random_key).
WEIGHT, BIT_META, BIT_SEARCH, CALIBRATION, BATCH_MOMENTS = range(5)


def teacher_targets(teacher: Teacher, batch: Batch) -> Batch:
  """Adds the teacher's class probabilities (M9) to a batch; all steps on the batch share them."""
  variables = {"params": teacher.weights, "batch_stats": teacher.batch_stats}
  logits, _ = teacher.network.apply(variables, batch["image"], train=False, dtype=teacher.dtype)
  return batch | {"target": jax.nn.softmax(logits)}


def label_targets(num_classes: int, batch: Batch) -> Batch:
  """Adds one-hot labels to a batch, for training without a teacher (M9)."""
  return batch | {"target": jax.nn.one_hot(batch["label"], num_classes)}


def weight_step(meta: MetaState, precision: Tree, batch: Batch) -> tuple[MetaState, Metrics]:
  """Updates weights, step sizes and batch norm at a given precision (a step of M14).

  The trees say what is quantised: an empty precision tree trains in full precision, and weights are quantised if
  `meta.step_sizes` has weight step sizes (stage B).

  Args:
    meta: the state before the step.
    precision: precision tree, see method/precision.py.
    batch: with its targets.

  Returns:
    The new meta-state, and {"loss": scalar, in nats}.
  """
  key = _random_key(meta, batch, WEIGHT, meta.phase, meta.step)
  gradients, loss, batch_stats = _task_gradients(meta, precision, batch, key)
  gradients, loss = jax.lax.pmean((gradients, loss), AXIS)
  return meta.apply_gradients(gradients, loss, batch_stats), {"loss": loss}


def bit_meta_step(meta: MetaState, batch: Batch) -> tuple[MetaState, Metrics]:
  """M10 [P]: updates the meta-state once, for the mean over b in B of the task loss with every searched layer at b.

  A scan over the bit-widths has the gradient in its body. The program therefore has one forward and backward pass, and
  memory for one, whatever |B| is. Running statistics see the bit-widths one after the other. If layers have different
  candidates, B is the union of their sets, and each layer takes its own candidate for each width
  (precision.bits_at_width [A]).

  Args:
    meta: with activation step sizes.
    batch: with its targets.

  Returns:
    The new meta-state; {"loss": mean over B, "loss_by_candidate": [B]}, in nats.
  """
  num_candidates = len(candidate_widths(meta.network.layers))

  def add_candidate(carry, candidate):
    total, batch_stats = carry
    precision = precision_at_width(meta.network.layers, candidate, meta.step)
    key = _random_key(meta, batch, BIT_META, meta.step, candidate)
    gradients, loss, batch_stats = _task_gradients(meta.replace(batch_stats=batch_stats), precision, batch, key)
    return (jax.tree.map(jnp.add, total, gradients), batch_stats), loss

  start = (jax.tree.map(jnp.zeros_like, meta.trainable), meta.batch_stats)
  (total, batch_stats), losses = jax.lax.scan(add_candidate, start, jnp.arange(num_candidates))
  gradients = jax.tree.map(lambda g: g / num_candidates, total)
  gradients, losses = jax.lax.pmean((gradients, losses), AXIS)
  loss = jnp.mean(losses)
  return meta.apply_gradients(gradients, loss, batch_stats), {"loss": loss, "loss_by_candidate": losses}


def bit_search_step(arch: ArchState, meta: MetaState, batch: Batch) -> tuple[ArchState, Metrics]:
  """M11 [P]: updates alpha ALONE, once, for task loss of the mixtures + lambda * |GBOPs(alpha) - target|.

  Batch statistics normalise this pass and are thrown away. The result has no meta-state, so none can change. Further
  limits, if there are any, add their terms, and their multipliers take a step as well (search_limits.py).

  Args:
    arch: of one target.
    meta: the fixed meta-state.
    batch: with its targets.

  Returns:
    The new architecture state; scalars {"loss", "task_loss", "gbops"}: nats, nats, GBOPs of the hard selection (M7).
  """
  network = meta.network

  def objective(alpha):
    precision = mixed_precision(network.layers, alpha)
    # Batch norm normalises by the batch; the running statistics that this pass writes are dropped.
    logits, _ = network.apply(
        meta.variables(precision), batch["image"], train=True, mutable=["batch_stats"],
        random_key=_random_key(meta, batch, BIT_SEARCH, meta.step))
    task_loss = soft_cross_entropy(logits, batch["target"])
    cost = expected_cost(network, arch.costs, alpha)
    penalty = cost_penalty(cost, arch.target_gbops, arch.penalty_weight)
    if arch.limits:
      penalty += limits_penalty(arch.limits, alpha)
    return task_loss + penalty, {"task_loss": task_loss, "gbops": cost}

  (loss, metrics), gradients = jax.value_and_grad(objective, has_aux=True)(arch.alpha)
  gradients, metrics = jax.lax.pmean((gradients, metrics | {"loss": loss}), AXIS)
  return arch.apply_gradients(gradients, metrics["loss"]), metrics


def bit_search_steps(archs: ArchState, meta: MetaState, batch: Batch) -> tuple[ArchState, Metrics]:
  """Takes one bit-search step (M11) with each of K architecture states on the same meta-state and batch.

  The steps run one after the other. Each alpha then equals the alpha of a search for its target alone, and one pass of
  memory is enough. XLA moves the layers before the first mixture out of the loop, because they do not depend on alpha.
  jax.vmap would sum in another order, so values on the edge between two codes would round differently
  (docs/targets.md).

  Args:
    archs: every array with a leading axis [K].
    meta: the fixed meta-state.
    batch: with its targets.

  Returns:
    As `bit_search_step`, every array with a leading axis [K].
  """
  return jax.lax.map(lambda arch: bit_search_step(arch, meta, batch), archs)


def expected_cost(network: Network, costs: dict[str, Array], alpha: dict[str, Array]) -> Array:
  """Returns the cost of the hard selection, scalar float32, with the gradient of the softmax (M7).

  Args:
    network: the static part.
    costs: of ArchState; {}: BOPs (M8).
    alpha: {layer name: [B]}.
  """
  if not costs:
    return gbops(network.layers, expected_bits(network, alpha))
  return jnp.sum(jnp.stack([
      straight_through_selection(alpha[layer.name]) @ costs[layer.name] if layer.searched
      else jnp.squeeze(costs[layer.name])
      for layer in network.layers]))


def expected_bits(network: Network, alpha: dict[str, Array]) -> dict[str, Array | int]:
  """Turns alpha into bits by layer name: hard selection forward, softmax backward (M7); constants if not searched.

  Searched kernels have theirs by their own name.
  """
  return complete_bits(network.layers, {
      name: straight_through_selection(alpha[name]) @ jnp.array(bits, jnp.float32)
      for name, bits in choices(network.layers).items()})


def evaluation_step(meta: MetaState, precision: Tree, batch: Batch) -> Metrics:
  """Counts correct predictions and images of a masked batch, and sums its loss, over all replicas.

  Args:
    meta: evaluated with its running statistics.
    precision: precision tree.
    batch: with "mask", float32 [N]: 1 for an image, 0 for padding.

  Returns:
    Scalars {"correct", "loss" (summed, in nats), "images"}, float32.
  """
  scores, mask = image_scores_step(meta, precision, batch), batch["mask"]
  return jax.lax.psum(
      {"correct": jnp.sum(mask * scores["correct"]), "loss": jnp.sum(mask * scores["loss"]), "images": jnp.sum(mask)},
      AXIS)


def image_scores_step(meta: MetaState, precision: Tree, batch: Batch) -> Metrics:
  """Scores every image of a batch by its label; running statistics normalise it.

  Args:
    meta: evaluated with its running statistics.
    precision: precision tree.
    batch: images and labels.

  Returns:
    {"correct": 1 for a correct prediction, else 0; "loss": cross-entropy to the label, in nats}, float32 [N].
  """
  logits, _ = meta.network.apply(meta.variables(precision), batch["image"], train=False)
  return {"correct": (jnp.argmax(logits, axis=1) == batch["label"]).astype(jnp.float32),
          "loss": optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])}


def calibration_step(meta: MetaState, batch: Batch) -> dict[str, Array]:
  """Measures mean|x| of every quantised layer's input, a scalar by layer name, in one full-precision pass (M4).

  The pass is in training mode, as in the first training step [C]. Running statistics that are not settled yet let
  activations fade from layer to layer, and step sizes that start from faded activations clip everything.
  """
  _, written = meta.network.apply(
      meta.variables(FULL_PRECISION), batch["image"], train=True, mutable=["calibration"],
      random_key=_random_key(meta, batch, CALIBRATION), dtype="float32")
  return jax.lax.pmean(_by_layer(meta.network, written, "mean_magnitude"), AXIS)


def input_range_step(meta: MetaState, batch: Batch) -> dict[str, dict[str, Array]]:
  """Measures what every quantised layer reads in evaluation mode and full precision, to check M3's ranges [A].

  In training mode dropout would scale what it keeps, beyond the range of the activation before it.

  Returns:
    {"minimum": lowest value, "mean_magnitude": mean|x|}, each a scalar by layer name.
  """
  _, written = meta.network.apply(
      meta.variables(FULL_PRECISION), batch["image"], train=False, mutable=["calibration"], dtype="float32")
  return {"minimum": jax.lax.pmin(_by_layer(meta.network, written, "minimum"), AXIS),
          "mean_magnitude": jax.lax.pmean(_by_layer(meta.network, written, "mean_magnitude"), AXIS)}


def batch_moments_step(meta: MetaState, precision: Tree, batch: Batch) -> Tree:
  """Returns means and variances that batch norm sees on this batch at a precision, shaped like `batch_stats` [A].

  Args:
    meta: its step is the number of the batch, from which random numbers follow.
    precision: precision tree.
    batch: targets are not needed.
  """
  _, written = meta.network.apply(
      meta.variables(precision), batch["image"], train=True, mutable=["batch_moments"],
      random_key=_random_key(meta, batch, BATCH_MOMENTS, meta.step))
  return written.get("batch_moments", {})


def _task_gradients(meta: MetaState, precision: Tree, batch: Batch, random_key: Array):
  """Returns gradients of the task loss (M9) by weights and step sizes on this replica, the loss, new batch_stats."""

  def objective(trainable):
    logits, written = meta.network.apply(
        meta.replace(**trainable).variables(precision), batch["image"], train=True, mutable=["batch_stats"],
        random_key=random_key)
    return soft_cross_entropy(logits, batch["target"]), written.get("batch_stats", meta.batch_stats)

  (loss, batch_stats), gradients = jax.value_and_grad(objective, has_aux=True)(meta.trainable)
  return gradients, loss, batch_stats


def _by_layer(network: Network, written: Tree, leaf: str) -> dict[str, Array]:
  """Returns one leaf of the collection `calibration` by layer name."""
  measured = traverse_util.flatten_dict(written["calibration"], sep="/")
  return {layer.name: measured[f"{layer.name}/{leaf}"] for layer in network.layers}


def _random_key(meta: MetaState, batch: Batch, use: int, *numbers: Array) -> Array:
  """Returns the key of a pass over this replica's images, for masks of the global batch.

  Args:
    meta: gives the seed of the run.
    batch: of this replica.
    use: the kind of pass, which has other keys than all other kinds.
    numbers: what tells the passes of one kind apart, integer scalars. A weight step has a key for each phase and step,
      a bit-meta step for each step and bit-width. The targets of a search share the key of their step, because each one
      equals a search for it alone, and so do the assignments whose statistics are re-estimated on one batch.
  """
  key = jax.random.key(meta.seed, impl=GENERATOR)
  for number in (use, *numbers):
    key = jax.random.fold_in(key, number)
  return batch_key(key, len(batch["image"]), jax.lax.axis_index(AXIS))
