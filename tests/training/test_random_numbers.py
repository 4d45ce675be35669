"""Random layers in training: which passes share their numbers, and 1 device against 4."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metamix_jax.method.precision import precision_at_width
from metamix_jax.nn.layers import QuantConv, QuantDense
from metamix_jax.nn.scheme import Placement, QuantizationScheme
from metamix_jax.nn.tracing import check_training, trace_network
from metamix_jax.records.names import TRAINING_PHASES
from metamix_jax.training import parallel, steps
from metamix_jax.training.state import Network, create_arch_states, create_meta_state

SHAPE, CLASSES = (8, 8, 1), 4
SCHEME = QuantizationScheme((3, 4, 8), 4, 8, Placement("batch"))


class Random(nn.Module):
  """A network with dropout, stochastic depth and noise, each under a name of its own."""

  @nn.compact
  def __call__(self, images, *, train):
    x = QuantConv(SCHEME.fixed, "signed", 8, 3, name="stem")(images)
    x = nn.relu(SCHEME.batch_norm(0.9, 1e-5, "norm")(x, train=train))
    if train:
      kept = jax.random.bernoulli(self.make_rng("depth"), 0.5, (x.shape[0], 1, 1, 1))
      x += kept * QuantConv(SCHEME, "unsigned", 8, 3, name="conv")(x)
    else:
      x += QuantConv(SCHEME, "unsigned", 8, 3, name="conv")(x)
    x = nn.Dropout(0.5, deterministic=not train)(jnp.mean(x, axis=(1, 2)))
    if train:
      x += 0.1 * jax.random.normal(self.make_rng("noise"), x.shape)
    return QuantDense(SCHEME.fixed, "signed", CLASSES, name="classifier")(x)


class Noise(nn.Module):
  """A network whose logits are noise alone: equal losses mean equal random numbers."""

  @nn.compact
  def __call__(self, images, *, train):
    x = jnp.mean(images, axis=(1, 2))
    noise = jax.random.normal(self.make_rng("noise"), (len(x), CLASSES)) if train else 0.0
    noise = SCHEME.batch_norm(0.9, 1e-5, "norm")(noise + jnp.zeros((len(x), CLASSES)), train=train)
    return noise + 0 * QuantDense(SCHEME, "signed", CLASSES, name="dense")(x)


def make_states(module, optimizer, programs, batch):
  traced = trace_network(module, SHAPE)
  check_training(traced, module, SHAPE, steps.AXIS)
  network = Network(module, traced.layers, (0.5,), (0.3,), 1e-6)
  meta = create_meta_state(network, optimizer, SHAPE, seed=0)
  magnitudes = programs[1].calibration_step(jax.device_get(meta), parallel.split_batch(batch, 1))
  meta = meta.with_activation_step_sizes(magnitudes).with_optimizer(optimizer)
  archs = create_arch_states(
      network, optimizer, seed=0, initial_std=1e-3, targets_gbops=(1e-4, 2e-4), penalty_weights=(0.0, 0.0))
  return jax.device_get(meta), jax.device_get(archs)


@pytest.fixture(scope="module")
def programs():
  return {count: parallel.make_programs(jax.devices()[:count]) for count in (1, 4)}


@pytest.fixture(scope="module")
def batch():
  rng = np.random.default_rng(0)
  return {"image": rng.integers(0, 256, (8, *SHAPE), dtype=np.uint8),
          "target": rng.dirichlet(np.ones(CLASSES), 8).astype(np.float32)}


@pytest.mark.slow
def test_masks_do_not_depend_on_the_number_of_devices(programs, batch):
  """A step of each kind, of a network with random layers; its updates ARE its gradients (SGD, rate 1)."""
  meta, archs = make_states(Random(), optax.sgd(1.0), programs, batch)
  precision = precision_at_width(meta.network.layers, np.int32(1))
  results = []
  for count, mapped in programs.items():
    split = parallel.split_batch(batch, count)
    results.append(jax.device_get({
        "weight": mapped.weight_step(meta, precision, split)[0].trainable,
        "bit-meta": mapped.bit_meta_step(meta, split)[0].trainable,
        "bit-search": mapped.bit_search_steps(archs, meta, split)[0].alpha,
        "calibration": mapped.calibration_step(meta, split),
        "batch moments": mapped.batch_moments_step(meta.without_optimizer(), precision, split)}))
  # atol: float32 sums in another order, for gradients that cancel to nearly nothing.
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6), *results)


def test_each_pass_has_numbers_of_its_own(programs, batch):
  """The losses of two epochs of steps: all differ, except those that share their numbers on purpose."""
  meta, archs = make_states(Noise(), optax.sgd(0.0), programs, batch)  # No loss changes for another reason.
  split = parallel.split_batch(batch, 1)
  precision = precision_at_width(meta.network.layers, np.int32(1))
  losses = []
  for phase in range(len(TRAINING_PHASES)):
    state = jax.device_get(meta.with_optimizer(meta.optimizer, phase))
    for _ in range(2):
      state, metrics = programs[1].weight_step(state, precision, split)
      losses.append(float(metrics["loss"]))
      state = jax.device_get(state)
  state = jax.device_get(meta.with_optimizer(meta.optimizer, TRAINING_PHASES.index("bit_selection")))
  for _ in range(2):
    state, metrics = programs[1].bit_meta_step(state, split)
    losses += np.asarray(metrics["loss_by_candidate"]).tolist()
    state = jax.device_get(state)
    _, metrics = programs[1].bit_search_steps(archs, state, split)
    first, second = np.asarray(metrics["task_loss"]).tolist()
    assert first == second  # The targets of one step.
    losses.append(first)
  assert len(losses) == 4 * 2 + 2 * (3 + 1)
  assert len({round(loss, 4) for loss in losses}) == len(losses)


def test_batch_statistics_have_numbers_for_each_batch(programs, batch):
  """Assignments are compared on the same numbers, also after the run was continued in a later phase."""
  meta, _ = make_states(Noise(), optax.sgd(0.0), programs, batch)
  split, means = parallel.split_batch(batch, 1), []
  for step, phase, candidate in ((0, 0, 0), (1, 0, 0), (1, 3, 2)):
    numbered = meta.without_optimizer().replace(step=np.int32(step), phase=np.int32(phase))
    precision = precision_at_width(meta.network.layers, np.int32(candidate))
    means.append(np.asarray(programs[1].batch_moments_step(numbered, precision, split)["norm"]["mean"]))
  assert np.abs(means[0] - means[1]).min() > 1e-3
  np.testing.assert_array_equal(means[1], means[2])
