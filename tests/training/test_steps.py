"""What each step changes, the bit-meta gradient, and 1 device against 4."""

import dataclasses

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metamix_jax.method.precision import precision_at_width
from metamix_jax.models import create_network
from metamix_jax.nn.scheme import Placement, QuantizationScheme
from metamix_jax.nn.tracing import trace_layers
from metamix_jax.training import optimizers, parallel, steps
from metamix_jax.training.state import Network, create_arch_states, create_meta_state

SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def programs():
  return {count: parallel.make_programs(jax.devices()[:count]) for count in (1, 4)}


@pytest.fixture(scope="module")
def batch():
  rng = np.random.default_rng(0)
  return {
      "image": rng.integers(0, 256, (8, *SHAPE), dtype=np.uint8),
      "label": rng.integers(0, 4, 8).astype(np.int32),
      "target": rng.dirichlet(np.ones(4), 8).astype(np.float32),
  }


@pytest.fixture(scope="module")
def states(programs, batch):
  """A meta-state whose updates ARE its gradients (SGD, rate 1), and one architecture state, stacked."""
  scheme = QuantizationScheme((3, 4, 8), 4, 8, Placement("batch"))
  options = {"stem_stride": 1, "stem_channels": 8, "blocks": ((1, 8, 1, 1), (2, 8, 1, 2)), "last_channels": 16}
  module = create_network("mobilenet_v2", 4, scheme, options)
  network = Network(module, trace_layers(module, SHAPE), (0.5,), (0.3,), 1e-6)
  meta = create_meta_state(network, optax.sgd(1.0), SHAPE, seed=0)
  magnitudes = programs[1].calibration_step(jax.device_get(meta), parallel.split_batch(batch, 1))
  meta = meta.with_activation_step_sizes(magnitudes).with_optimizer(optax.sgd(1.0))
  arch = create_arch_states(
      network, optimizers.arch_optimizer(3e-2, beta1=0.5, beta2=0.999, epsilon=1e-8, l2=1e-3), seed=0,
      initial_std=1e-3, targets_gbops=(1e-4,), penalty_weights=(1.0,))
  return jax.device_get(meta), jax.device_get(arch)


def assert_identical(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_close(a, b):
  # atol: float32 sums in another order, for gradients that cancel to nearly nothing.
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=2e-6), a, b)


def test_bit_search_changes_alpha_and_its_optimizer_only(programs, states, batch):
  meta, arch = states
  before = jax.tree.map(np.copy, meta)
  result = programs[1].bit_search_steps(arch, meta, parallel.split_batch(batch, 1))
  assert_identical(before, meta)
  new_arch = result[0]
  for name, alpha in arch.alpha.items():
    assert np.all(np.asarray(new_arch.alpha[name]) != alpha), name
  assert new_arch.target_gbops == arch.target_gbops and new_arch.penalty_weight == arch.penalty_weight
  assert new_arch.step.tolist() == [1]


def test_bit_meta_gradient_is_the_mean_over_bit_widths(programs, states, batch):
  meta, arch = states
  before = jax.tree.map(np.copy, arch)
  split = parallel.split_batch(batch, 1)
  updated, metrics = programs[1].bit_meta_step(meta, split)
  one_by_one = [
      programs[1].weight_step(meta, precision_at_width(meta.network.layers, np.int32(index)), split)
      for index in range(3)
  ]
  # theta - mean(g) on both sides.
  expected = jax.tree.map(lambda *values: sum(values) / 3, *(jax.device_get(new.weights) for new, _ in one_by_one))
  assert_close(jax.device_get(updated.weights), expected)
  np.testing.assert_allclose(metrics["loss_by_candidate"], [m["loss"] for _, m in one_by_one], rtol=1e-6)
  assert_identical(before, arch)
  moved = jax.tree.map(lambda old, new: np.any(old != np.asarray(new)), meta.trainable, updated.trainable)
  assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize("step", ["bit_meta", "bit_search", "weight_a", "weight_b"])
def test_same_update_on_one_and_four_devices(programs, states, batch, step):
  meta, arch = states
  if step == "weight_b":
    meta = jax.device_get(meta.with_weight_step_sizes().with_optimizer(optax.sgd(1.0)))
  precision = precision_at_width(meta.network.layers, np.int32(1))
  results = []
  for count, mapped in programs.items():
    split = parallel.split_batch(batch, count)
    if step == "bit_meta":
      new = mapped.bit_meta_step(meta, split)[0]
    elif step == "bit_search":
      new = mapped.bit_search_steps(arch, meta, split)[0]
    else:
      new = mapped.weight_step(meta, precision, split)[0]
    results.append(jax.device_get(new))
  if step == "bit_search":
    # Adam's first update is the sign of the gradient; its first moment is 1 - beta1 times the gradient.
    assert_close(results[0].optimizer_state, results[1].optimizer_state)
  else:
    assert_close(results[0].trainable, results[1].trainable)
    assert_close(results[0].batch_stats, results[1].batch_stats)


@pytest.mark.parametrize("step", ["weight_step", "bit_meta_step", "bit_search_steps", "evaluation_step",
                                  "calibration_step", "batch_moments_step"])
def test_jit_of_shard_map_gives_the_numbers_of_pmap(programs, states, batch, step):
  """The steps are ready for the day on which pmap goes: only parallel.py would change.

  With check_vma=True, shard_map's default, the gradient of a replicated argument is summed over the axis already, and
  the pmean in the steps would be wrong.
  """
  meta, arch = states
  precision = precision_at_width(meta.network.layers, np.int32(1))
  batch = batch | {"mask": np.array([1, 1, 1, 0, 1, 1, 0, 1], np.float32)}
  arguments = {
      "weight_step": (meta, precision), "bit_meta_step": (meta,), "bit_search_steps": (arch, meta),
      "evaluation_step": (meta.without_optimizer(), precision), "calibration_step": (meta,),
      "batch_moments_step": (meta.without_optimizer(), precision)}[step]
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), (steps.AXIS,))
  replicated, split = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(steps.AXIS)
  twin = jax.jit(jax.shard_map(
      getattr(steps, step), mesh=mesh, in_specs=(*[replicated] * len(arguments), split), out_specs=replicated,
      check_vma=False))
  expected = getattr(programs[4], step)(*arguments, parallel.split_batch(batch, 4))
  actual = twin(*arguments, batch)
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  assert_identical(jax.device_get(actual), jax.device_get(expected))


def test_each_leaf_has_one_label_and_a_stranger_is_an_error(states):
  meta, _ = states
  labels = optimizers.weight_labels(meta.with_weight_step_sizes().trainable)
  count = {label: jax.tree.leaves(labels).count(label) for label in ("conv_kernel", "other_weight", "step_size")}
  # 8 layers: stem, 2 + 3, head, classifier; 7 convolutions with batch norm; the classifier's kernel and bias;
  # two step-size leaves for each layer.
  layers = len(meta.network.layers)
  assert count == {"conv_kernel": layers - 1, "other_weight": 2 * (layers - 1) + 2, "step_size": 2 * layers}
  with pytest.raises(ValueError, match="step_sizes/stem/gamma has no optimiser"):
    optimizers.weight_labels({"weights": {}, "step_sizes": {"stem": {"gamma": jnp.zeros(3)}}})


@pytest.mark.slow
def test_bfloat16_keeps_states_float32(programs, states, batch):
  """bfloat16 has 8 bits of mantissa: losses agree to a few of its units, gradients point the same way."""
  exact, arch = states
  rounded = exact.replace(network=dataclasses.replace(exact.network, dtype="bfloat16"))
  precision, split = precision_at_width(exact.network.layers, np.int32(2)), parallel.split_batch(batch, 1)
  results = []
  for meta in exact, rounded:
    new_meta, metrics = programs[1].weight_step(meta, precision, split)
    new_arch, search = programs[1].bit_search_steps(arch, meta, split)
    check_types(new_meta, new_arch, metrics, search)
    gradients = jax.tree.map(np.subtract, meta.weights, jax.device_get(new_meta.weights))
    results.append((float(metrics["loss"]), float(search["task_loss"][0]), gradients))
  assert_close_to_bfloat16(*results)


@pytest.mark.slow
@pytest.mark.parametrize("depthwise", ["shifted", "native"])
def test_bfloat16_in_mobilenet_v3(programs, batch, depthwise):
  """As above, with squeeze and excitation, h-swish, quantised weights, and a bit-meta step."""
  results = []
  for dtype in ("float32", "bfloat16"):
    scheme = QuantizationScheme((4, 6, 8), 4, 8, Placement("batch", depthwise=depthwise))
    options = {"stem_stride": 1, "stem_channels": 8, "last_channels": 16, "blocks": (
        (3, 16, 16, True, "relu", 1), (5, 32, 24, True, "hard_swish", 2))}
    module = create_network("mobilenet_v3_small", 4, scheme, options)
    network = Network(module, trace_layers(module, SHAPE), (0.5,), (0.3,), 1e-6, dtype)
    meta = create_meta_state(network, optax.trace(0.9), SHAPE, seed=0)
    split = parallel.split_batch(batch, 1)
    meta = meta.with_activation_step_sizes(programs[1].calibration_step(meta, split)).with_weight_step_sizes()
    meta = meta.with_optimizer(optax.trace(0.9))
    arch = create_arch_states(
        network, optax.trace(0.9), seed=0, initial_std=1e-3, targets_gbops=(1e-4,), penalty_weights=(1.0,))
    new_meta, metrics = programs[1].bit_meta_step(jax.device_get(meta), split)  # Not donated: it is used again.
    new_arch, search = programs[1].bit_search_steps(arch, meta, split)
    check_types(new_meta, new_arch, metrics, search)
    results.append((float(metrics["loss"]), float(search["task_loss"][0]), new_meta.optimizer_state.trace["weights"]))
  assert_close_to_bfloat16(*results)


def check_types(*trees):
  for leaf in jax.tree.leaves(trees):
    assert leaf.dtype in (jnp.float32, jnp.int32, jnp.uint32)


def assert_close_to_bfloat16(exact, rounded):
  """Compares (loss, loss, gradients of the weights)."""
  np.testing.assert_allclose(rounded[:2], exact[:2], rtol=0.02)
  ours, theirs = (traverse_util.flatten_dict(result[2], sep="/") for result in (exact, rounded))
  for name, gradient in ours.items():
    if name.endswith("kernel"):
      one, other = np.ravel(gradient), np.ravel(theirs[name])
      cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
      assert 0.85 < cosine < 1 - 1e-7, name  # The same direction, and not the same numbers: bfloat16 was used.
