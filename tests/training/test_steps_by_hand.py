"""Each step on a network of dense layers, against the same computed in NumPy or put together from its parts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metamix_jax.method.precision import FULL_PRECISION, assigned_precision
from metamix_jax.training import steps
from metamix_jax.training.state import Teacher, create_arch_states
from tests.helpers.dense_network import BATCH, CLASSES, SHAPE, dense_batch, dense_network, dense_state
from tests.helpers.quantization import lsq_reference

TARGETS, PENALTY = (1e-6, 1.0), 3.0  # GBOPs: the one is below every assignment, the other above; lambda * target.
BITS = {"middle": 2, "last": 8}


@pytest.fixture(scope="module")
def network():
  return dense_network()


@pytest.fixture(scope="module")
def meta(network):
  return dense_state(network)


@pytest.fixture(scope="module")
def batch():
  return dense_batch()


def on_one(function):
  """A step on a single replica."""
  return jax.jit(lambda *args: jax.tree.map(lambda leaf: leaf[0], jax.vmap(
      function, in_axes=(None,) * (len(args) - 1) + (0,), axis_name=steps.AXIS)(
          *args[:-1], jax.tree.map(lambda leaf: leaf[None], args[-1]))))


def on_two(function):
  """A step on two replicas, with half of the batch each; what each of them returns."""
  return jax.jit(lambda *args: jax.vmap(function, in_axes=(None,) * (len(args) - 1) + (0,), axis_name=steps.AXIS)(
      *args[:-1], jax.tree.map(lambda leaf: leaf.reshape(2, -1, *leaf.shape[1:]), args[-1])))


def softmax(logits):
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  return weights / weights.sum(-1, keepdims=True)


def forward(meta, images, quantize_input=None, train=False):
  """Logits of the network in NumPy's and JAX's plain operations, and the input of each layer."""
  inputs, weights = {}, meta.weights

  def layer(name, x):
    inputs[name] = x
    x = quantize_input(name, x) if quantize_input else x
    return x @ weights[name]["kernel"] + weights[name]["bias"]

  x = layer("stem", ((images / np.float32(255) - 0.5) / 0.25).reshape(len(images), -1))
  mean, variance = (x.mean(0), x.var(0)) if train else (
      meta.batch_stats["norm"]["mean"], meta.batch_stats["norm"]["var"])
  moments = {"mean": mean, "var": variance * len(images) / (len(images) - 1)}  # Running variances are unbiased.
  x = (x - mean) / jnp.sqrt(variance + 1e-5) * weights["norm"]["scale"] + weights["norm"]["bias"]
  x = x * jnp.clip(x + 3, 0, 6) / 6
  x = jnp.maximum(layer("middle", x), 0)
  x = jnp.maximum(layer("last", x), 0)
  return layer("classifier", x), inputs, moments


def quantizer(meta, probabilities):
  """The input of a layer as the sum of its branches, by the published pseudo-code of LSQ."""
  ranges = {"stem": ("signed", (8,)), "middle": ("hard_swish", (2, 4, 8)), "last": ("unsigned", (2, 4, 8)),
            "classifier": ("unsigned", (8,))}

  def quantize(name, x):
    input_range, bits = ranges[name]
    shift, step_sizes = 3 / 8 if input_range == "hard_swish" else 0.0, meta.step_sizes[name]["activation"]
    total = 0.0
    for index, b in enumerate(bits):
      p = 2.0 ** (b - 1) - 1 if input_range == "signed" else 2.0**b - 1
      g = 1 / np.sqrt(x.size * p)
      branch = lsq_reference(x + shift, step_sizes[index], -p if input_range == "signed" else 0.0, p, g) - shift
      total += (probabilities[name][index] if len(bits) > 1 else 1.0) * branch
    return total
  return quantize


def cross_entropy(logits, target):
  return -jnp.mean(jnp.sum(target * jax.nn.log_softmax(logits), -1))


def assert_trees_close(actual, expected, **tolerance):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), actual, expected)


def test_the_teachers_targets_are_its_softmax_at_temperature_one(network, meta, batch):
  teacher = Teacher(meta.weights, meta.batch_stats, network, "float32")
  result = jax.jit(steps.teacher_targets)(teacher, batch)
  assert result.keys() == batch.keys()
  expected = softmax(np.asarray(forward(meta, batch["image"])[0]))
  np.testing.assert_allclose(result["target"], expected, rtol=2e-5)
  assert np.ptp(expected, axis=0).max() > 0.2  # Far from uniform: another temperature shows.


def test_the_teacher_has_a_type_of_its_own(network, meta, batch):
  teacher = Teacher(meta.weights, meta.batch_stats, network, "bfloat16")
  target = steps.teacher_targets(teacher, batch)["target"]
  expected = softmax(np.asarray(forward(meta, batch["image"])[0]))
  assert target.dtype == jnp.float32 and 1e-5 < np.abs(target - expected).max() < 0.05


def test_label_targets_are_one_hot(batch):
  result = steps.label_targets(CLASSES, batch)
  assert result.keys() == batch.keys()
  np.testing.assert_array_equal(result["target"], np.eye(CLASSES)[batch["label"]])


def test_a_bit_search_step_by_hand(network, meta, batch):
  """Loss, task loss, cost, and the gradient by alpha: softmax in the mixture, and straight through in the cost."""
  archs = create_arch_states(
      network, optax.sgd(1.0), seed=1, initial_std=0.5, targets_gbops=TARGETS,
      penalty_weights=[PENALTY / target for target in TARGETS])
  new, metrics = on_one(steps.bit_search_steps)(archs, meta, batch)
  assert metrics.keys() == {"loss", "task_loss", "gbops"}
  macs = {layer.name: layer.macs for layer in network.layers}
  fixed = 64 * (macs["stem"] + macs["classifier"])
  for index, target in enumerate(TARGETS):
    alpha = {name: values[index] for name, values in jax.device_get(archs.alpha).items()}
    hard = {name: (2, 4, 8)[int(np.argmax(values))] for name, values in alpha.items()}
    cost = (fixed + 4 * sum(macs[name] * bits for name, bits in hard.items())) / 1e9

    def task_loss(alpha):
      pi = {name: jax.nn.softmax(values) for name, values in alpha.items()}
      return cross_entropy(forward(meta, batch["image"], quantizer(meta, pi), train=True)[0], batch["target"])

    task, gradient = jax.value_and_grad(task_loss)(alpha)
    weight = PENALTY / target
    np.testing.assert_allclose(metrics["task_loss"][index], task, rtol=2e-5)
    np.testing.assert_allclose(metrics["gbops"][index], cost, rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"][index], task + weight * abs(cost - target), rtol=2e-5)
    for name in alpha:
      pi = softmax(alpha[name])
      cost_gradient = 4 * macs[name] / 1e9 * pi * (np.array([2, 4, 8]) - pi @ np.array([2, 4, 8]))
      expected = gradient[name] + weight * np.sign(cost - target) * cost_gradient
      np.testing.assert_allclose(alpha[name] - new.alpha[name][index], expected, rtol=1e-4, atol=2e-6)
      # The two parts are of a size that shows: neither can be missing.
      assert np.abs(gradient[name]).max() > 1e-3
    assert weight * np.abs(cost_gradient).max() > (1 if target < 1e-3 else 1e-7)


def test_the_bits_of_a_search_are_those_of_its_layers(network):
  alpha = {"middle": jnp.array([0.0, 1.0, 0.5]), "last": jnp.array([0.0, 0.0, 0.1])}
  bits = steps.expected_bits(network, alpha)
  assert {name: float(value) for name, value in bits.items()} == {
      "stem": 8, "middle": 4, "last": 8, "classifier": 8}


@pytest.mark.parametrize("quantized", [False, True])
def test_a_weight_step_by_hand(network, meta, batch, quantized):
  """theta - gradient, the loss, and the running statistics."""
  precision = assigned_precision(network.layers, BITS) if quantized else FULL_PRECISION
  one_hot = {"middle": np.array([1.0, 0, 0]), "last": np.array([0, 0, 1.0])}

  def loss_of(trainable):
    state = meta.replace(**trainable)
    logits, _, moments = forward(state, batch["image"], quantizer(state, one_hot) if quantized else None, train=True)
    return cross_entropy(logits, batch["target"]), moments

  (loss, moments), gradients = jax.value_and_grad(loss_of, has_aux=True)(meta.trainable)
  new, metrics = on_one(steps.weight_step)(meta, precision, batch)
  assert metrics.keys() == {"loss"} and int(new.step) == 1 and int(new.bad_step) == 0
  np.testing.assert_allclose(metrics["loss"], loss, rtol=2e-5)
  moved = jax.tree.map(np.subtract, meta.trainable, jax.device_get(new.trainable))
  assert_trees_close(moved["weights"], gradients["weights"], rtol=2e-4, atol=5e-6)
  for name in gradients["step_sizes"]:
    # A step that would take a step size below its floor ends there.
    expected = np.maximum(meta.step_sizes[name]["activation"] - gradients["step_sizes"][name]["activation"], 1e-6)
    np.testing.assert_allclose(new.step_sizes[name]["activation"], expected, rtol=2e-4, atol=5e-6)
  old = meta.batch_stats["norm"]
  for name in ("mean", "var"):
    expected = 0.9 * old[name] + 0.1 * moments[name]
    np.testing.assert_allclose(new.batch_stats["norm"][name], expected, rtol=1e-4, atol=1e-5)


def test_a_bit_meta_step_is_the_mean_of_its_widths_and_its_statistics_see_one_after_the_other(network, meta, batch):
  new, metrics = on_one(steps.bit_meta_step)(meta, batch)
  assert metrics.keys() == {"loss", "loss_by_candidate"}
  step = on_one(steps.weight_step)
  singles, state = [], meta
  for bits in (2, 4, 8):
    updated, single = step(state, assigned_precision(network.layers, {"middle": bits, "last": bits}), batch)
    singles.append((float(single["loss"]), jax.tree.map(np.subtract, meta.weights, jax.device_get(updated.weights))))
    state = meta.replace(batch_stats=updated.batch_stats)
  losses, gradients = zip(*singles, strict=True)
  np.testing.assert_allclose(metrics["loss_by_candidate"], losses, rtol=1e-5)
  np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-5)
  assert max(losses) > min(losses) + 1e-3
  moved = jax.tree.map(np.subtract, meta.weights, jax.device_get(new.weights))
  assert_trees_close(moved, jax.tree.map(lambda *leaves: sum(leaves) / 3, *gradients), rtol=1e-4, atol=1e-6)
  assert_trees_close(jax.device_get(new.batch_stats), jax.device_get(state.batch_stats), rtol=1e-5, atol=1e-7)


def test_an_evaluation_step_counts_what_the_mask_leaves(network, meta, batch):
  result = on_one(steps.evaluation_step)(meta.without_optimizer(), FULL_PRECISION, batch)
  logits = np.asarray(forward(meta, batch["image"])[0])
  mask, labels = batch["mask"], batch["label"]
  correct = (logits.argmax(-1) == labels) * mask
  losses = -np.log(softmax(logits)[np.arange(BATCH), labels])
  assert result.keys() == {"correct", "loss", "images"}
  assert (float(result["correct"]), float(result["images"])) == (correct.sum(), 6) and 0 < correct.sum() < 6
  np.testing.assert_allclose(result["loss"], (losses * mask).sum(), rtol=1e-5)
  on_halves = on_two(steps.evaluation_step)(meta.without_optimizer(), FULL_PRECISION, batch)
  for name, value in result.items():
    np.testing.assert_allclose(on_halves[name], [value] * 2, rtol=1e-6)


def test_scores_of_each_image(network, meta, batch):
  scores = jax.jit(steps.image_scores_step)(meta.without_optimizer(), FULL_PRECISION, batch)
  logits = np.asarray(forward(meta, batch["image"])[0])
  assert scores.keys() == {"correct", "loss"}
  np.testing.assert_array_equal(scores["correct"], logits.argmax(-1) == batch["label"])
  np.testing.assert_allclose(
      scores["loss"], -np.log(softmax(logits)[np.arange(BATCH), batch["label"]]), rtol=1e-4, atol=1e-5)


def test_an_input_range_step_measures_in_evaluation_mode_over_all_replicas(network, meta, batch):
  inputs = forward(meta, batch["image"])[1]
  half = meta.replace(network=dataclasses.replace(network, dtype="bfloat16"))  # It measures in float32.
  for function, state in (on_one, meta), (on_one, half), (on_two, meta):
    ranges = function(steps.input_range_step)(state, batch)
    assert ranges.keys() == {"minimum", "mean_magnitude"} and ranges["minimum"].keys() == inputs.keys()
    for name, x in inputs.items():
      np.testing.assert_allclose(ranges["minimum"][name], np.broadcast_to(x.min(), ranges["minimum"][name].shape),
                                 rtol=1e-5, atol=1e-6)
      np.testing.assert_allclose(
          ranges["mean_magnitude"][name], np.broadcast_to(np.abs(x).mean(), ranges["minimum"][name].shape), rtol=1e-5)


def test_a_calibration_step_measures_the_input_of_each_layer(network, meta, batch):
  """In training mode: batch norm normalises by the batch; in full precision and float32, whatever else the run uses."""
  half = dataclasses.replace(network, dtype="bfloat16")
  inputs = forward(meta, batch["image"], train=True)[1]
  for state in meta, meta.replace(network=half):
    magnitudes = on_one(steps.calibration_step)(state, batch)
    assert magnitudes.keys() == inputs.keys()
    for name, x in inputs.items():
      np.testing.assert_allclose(magnitudes[name], np.abs(x).mean(), rtol=1e-5)


def test_batch_moments_are_those_of_the_batch_at_the_precision(network, meta, batch):
  precision = assigned_precision(network.layers, BITS)
  moments = on_one(steps.batch_moments_step)(meta.without_optimizer(), precision, batch)
  one_hot = {"middle": np.array([1.0, 0, 0]), "last": np.array([0, 0, 1.0])}
  expected = forward(meta, batch["image"], quantizer(meta, one_hot), train=True)[2]
  assert_trees_close(jax.device_get(moments), {"norm": jax.device_get(expected)}, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("step", ["calibration", "batch_moments"])
def test_two_replicas_agree_with_one(network, meta, batch, step):
  """Both measures over the whole batch; tests/training/test_steps.py has the training steps."""
  function, *arguments = {
      "calibration": (steps.calibration_step, meta),
      "batch_moments": (steps.batch_moments_step, meta.without_optimizer(), assigned_precision(network.layers, BITS)),
  }[step]
  one = jax.device_get(on_one(function)(*arguments, batch))
  two = jax.device_get(on_two(function)(*arguments, batch))
  for replica in range(2):
    mine = jax.tree.map(lambda leaf, replica=replica: leaf[replica], two)
    assert_trees_close(mine, one, rtol=1e-5, atol=1e-6)


def test_the_network_reads_what_its_layers_say(network):
  """The facts that the tests above count with."""
  assert [(layer.name, layer.macs, layer.candidate_bits, layer.weight_bits) for layer in network.layers] == [
      ("stem", 48, (8,), 8), ("middle", 64, (2, 4, 8), 4), ("last", 64, (2, 4, 8), 4), ("classifier", 32, (8,), 8)]
  assert np.prod(SHAPE) == 6
