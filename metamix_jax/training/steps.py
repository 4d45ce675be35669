"""The steps of MetaMix, pure functions of one replica; collectives run over the axis "batch".

A batch is {"image": uint8 [N, H, W, C], "label": int32 [N]} and, once its targets are there, "target": float32
[N, classes]; N is the part of the global batch on this replica. parallel.py maps the steps over devices.
"""

import jax
from jax import Array
import jax.numpy as jnp

from metamix_jax.method.bit_mixture import straight_through_selection
from metamix_jax.method.bops import candidate_widths, gbops
from metamix_jax.method.losses import cost_penalty, soft_cross_entropy
from metamix_jax.method.precision import FULL_PRECISION, mixed_precision, precision_at_width
from metamix_jax.models.network import Network, Tree
from metamix_jax.training.state import ArchState, MetaState, Teacher

AXIS = "batch"
Batch = dict[str, Array]
Metrics = dict[str, Array]


def teacher_targets(teacher: Teacher, batch: Batch) -> Batch:
  """Adds the teacher's class probabilities (M9) to a batch: once a batch, whatever uses it afterwards."""
  variables = {"params": teacher.weights, "batch_stats": teacher.batch_stats}
  logits, _ = teacher.network.apply(variables, batch["image"], train=False, dtype=teacher.dtype)
  return batch | {"target": jax.nn.softmax(logits)}


def label_targets(num_classes: int, batch: Batch) -> Batch:
  """Adds one-hot labels to a batch, for training without a teacher (M9)."""
  return batch | {"target": jax.nn.one_hot(batch["label"], num_classes)}


def weight_step(meta: MetaState, precision: Tree, batch: Batch) -> tuple[MetaState, Metrics]:
  """One update of weights, step sizes and batch norm at a given precision (a step of M14).

  The trees say what is quantised: an empty precision tree trains in full precision; weights are quantised
  where `meta.step_sizes` holds weight step sizes (stage B).

  Returns:
    The new meta-state, and {"loss": scalar}.
  """
  gradients, loss, batch_stats = _task_gradients(meta, precision, batch)
  gradients, loss = jax.lax.pmean((gradients, loss), AXIS)
  return meta.apply_gradients(gradients, loss, batch_stats), {"loss": loss}


def bit_meta_step(meta: MetaState, batch: Batch) -> tuple[MetaState, Metrics]:
  """M10 [P]: one update of the meta-state for the mean over B of the task loss, every searched layer at b.

  The bit-widths are a scan with the gradient inside its body: one compiled forward and backward pass whatever
  |B| is, and memory for one of them. Running statistics see the bit-widths one after the other. Where layers have
  different candidates, B is the union of their sets, and a layer takes its own candidate for each width
  (precision.bits_at_width [A]).

  Returns:
    The new meta-state; {"loss": mean over B, "loss_by_candidate": [B]}.
  """
  num_candidates = len(candidate_widths(meta.network.layers))

  def add_candidate(carry, candidate):
    total, batch_stats = carry
    precision = precision_at_width(meta.network.layers, candidate)
    gradients, loss, batch_stats = _task_gradients(meta.replace(batch_stats=batch_stats), precision, batch)
    return (jax.tree.map(jnp.add, total, gradients), batch_stats), loss

  start = (jax.tree.map(jnp.zeros_like, meta.trainable), meta.batch_stats)
  (total, batch_stats), losses = jax.lax.scan(add_candidate, start, jnp.arange(num_candidates))
  gradients = jax.tree.map(lambda g: g / num_candidates, total)
  gradients, losses = jax.lax.pmean((gradients, losses), AXIS)
  loss = jnp.mean(losses)
  return meta.apply_gradients(gradients, loss, batch_stats), {"loss": loss, "loss_by_candidate": losses}


def bit_search_step(arch: ArchState, meta: MetaState, batch: Batch) -> tuple[ArchState, Metrics]:
  """M11 [P]: one update of alpha ALONE: task loss of the mixtures + lambda * |GBOPs(alpha) - target|.

  Batch statistics normalise this pass and are thrown away; there is no meta-state in the result to change.

  Returns:
    The new architecture state; {"loss", "task_loss", "gbops"} (GBOPs of the hard selection, M7).
  """
  network = meta.network

  def objective(alpha):
    precision = mixed_precision(network.layers, alpha)
    # Batch norm normalises by the batch; the running statistics that this pass writes are dropped.
    logits, _ = network.apply(
        meta.variables(precision), batch["image"], train=True, mutable=["batch_stats"], dropout_key=_dropout_key(meta))
    task_loss = soft_cross_entropy(logits, batch["target"])
    cost = gbops(network.layers, expected_bits(network, alpha))
    penalty = cost_penalty(cost, arch.target_gbops, arch.penalty_weight)
    return task_loss + penalty, {"task_loss": task_loss, "gbops": cost}

  (loss, metrics), gradients = jax.value_and_grad(objective, has_aux=True)(arch.alpha)
  gradients, metrics = jax.lax.pmean((gradients, metrics | {"loss": loss}), AXIS)
  return arch.apply_gradients(gradients, metrics["loss"]), metrics


def bit_search_steps(archs: ArchState, meta: MetaState, batch: Batch) -> tuple[ArchState, Metrics]:
  """One bit-search step (M11) of each of K architecture states on the same meta-state and batch.

  The steps run one after the other: each alpha then equals the alpha of a search for its target alone, the memory is that
  of one pass, and XLA takes the layers before the first mixture, which do not depend on alpha, out of the loop. jax.vmap
  would sum in another order, so values on the edge between two codes would round differently (docs/targets.md).

  Args:
    archs: every array with a leading axis [K].
    meta: the fixed meta-state.
    batch: with its targets.

  Returns:
    As `bit_search_step`, every array with a leading axis [K].
  """
  return jax.lax.map(lambda arch: bit_search_step(arch, meta, batch), archs)


def expected_bits(network: Network, alpha: dict[str, Array]) -> dict[str, Array | int]:
  """Bits by layer name: of the hard selection forward, of the softmax backward (M7); constants elsewhere."""
  return {
      layer.name: straight_through_selection(alpha[layer.name]) @ jnp.array(layer.candidate_bits, jnp.float32)
      if layer.searched else layer.candidate_bits[0]
      for layer in network.layers
  }


def evaluation_step(meta: MetaState, precision: Tree, batch: Batch) -> Metrics:
  """Correct predictions, summed loss and number of images of a masked batch, over all replicas.

  Args:
    meta: evaluated with its running statistics.
    precision: precision tree.
    batch: with "mask", float32 [N]: 1 for an image, 0 for padding.
  """
  logits, _ = meta.network.apply(meta.variables(precision), batch["image"], train=False)
  log_probabilities = jax.nn.log_softmax(logits)
  loss = -jnp.take_along_axis(log_probabilities, batch["label"][:, None], axis=1)[:, 0]
  correct = (jnp.argmax(logits, axis=-1) == batch["label"]).astype(jnp.float32)
  mask = batch["mask"]
  return jax.lax.psum(
      {"correct": jnp.sum(mask * correct), "loss": jnp.sum(mask * loss), "images": jnp.sum(mask)}, AXIS)


def calibration_step(meta: MetaState, batch: Batch) -> dict[str, Array]:
  """mean|x| of every quantised layer's input in one full-precision pass, by layer name, over all replicas (M4).

  In training mode, as the first training step sees its inputs [C]: running statistics that are not settled yet let
  activations fade from layer to layer, and step sizes started on those clip everything.
  """
  _, written = meta.network.apply(
      meta.variables(FULL_PRECISION), batch["image"], train=True, mutable=["calibration"],
      dropout_key=_dropout_key(meta), dtype="float32")
  magnitudes = {}
  for layer in meta.network.layers:
    node = written["calibration"]
    for part in layer.name.split("/"):
      node = node[part]
    magnitudes[layer.name] = node["mean_magnitude"]
  return jax.lax.pmean(magnitudes, AXIS)


def batch_moments_step(meta: MetaState, precision: Tree, batch: Batch) -> Tree:
  """Mean and variance that batch norm sees on this batch at a precision, shaped like `batch_stats` [A]."""
  _, written = meta.network.apply(
      meta.variables(precision), batch["image"], train=True, mutable=["batch_moments"], dropout_key=_dropout_key(meta))
  return written.get("batch_moments", {})


def _task_gradients(meta: MetaState, precision: Tree, batch: Batch):
  """Gradients of the task loss (M9) by weights and step sizes on this replica, the loss, new batch_stats."""

  def objective(trainable):
    logits, written = meta.network.apply(
        meta.replace(**trainable).variables(precision), batch["image"], train=True, mutable=["batch_stats"],
        dropout_key=_dropout_key(meta))
    return soft_cross_entropy(logits, batch["target"]), written.get("batch_stats", meta.batch_stats)

  (loss, batch_stats), gradients = jax.value_and_grad(objective, has_aux=True)(meta.trainable)
  return gradients, loss, batch_stats


def _dropout_key(meta: MetaState) -> Array:
  """A key of its own for each step and replica."""
  key = jax.random.fold_in(jax.random.key(meta.seed), meta.step)
  return jax.random.fold_in(key, jax.lax.axis_index(AXIS))
