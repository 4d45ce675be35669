"""The learning rate of every step of every phase, read from what the steps change."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metamix_jax.training import context, phases
from tests.helpers.configs import middle_target, tiny_config

STEPS_PER_EPOCH = 5  # 1347 // 256.


def count_rates(learning_rate):
  """Moves everything by -1 times the learning rate, whatever the gradient is: a sum of learning rates remains."""
  return optax.chain(
      optax.stateless(lambda gradients, _: jax.tree.map(jnp.ones_like, gradients)),
      optax.scale_by_learning_rate(learning_rate))


@pytest.fixture(scope="module")
def work(data_dir):
  config = tiny_config(data_dir)
  config.network.name = "tests.helpers.dense_network:DenseNetwork"
  with config.network.unlocked():
    config.network.options = {}
  config.arch.target_gbops = middle_target(config)
  for section, epochs in (("pretraining", 2), ("bit_selection", 3), ("stage_a", 1), ("stage_b", 2)):
    config[section].epochs, config[section].learning_rate = epochs, 0.01
  config.bit_selection.meta_only_epochs = 1
  config.arch.learning_rate, config.arch.final_learning_rate = 0.3, 0.02
  return dataclasses.replace(context.prepare(config), weight_optimizer=count_rates, arch_optimizer=count_rates)


def half_cosine(first, last, num_steps):
  """Sum of the learning rates of a phase (M14): half a cosine that reaches its end after the last step."""
  return sum(last + (first - last) * (1 + math.cos(math.pi * step / num_steps)) / 2 for step in range(num_steps))


def assert_moved(before, after, distance):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a - b, distance, rtol=1e-3), before, jax.device_get(after))


def test_pretraining_has_a_cosine(work):
  meta = phases.create_student(work)
  before = jax.device_get(meta.weights)
  assert_moved(before, phases.pretrain(work, meta)[0].weights, half_cosine(0.01, 0, 2 * STEPS_PER_EPOCH))
  assert half_cosine(0.01, 0, 10) == pytest.approx(0.055)  # A constant rate would give 0.1.


@pytest.mark.parametrize("stage, epochs", [("stage_a", 1), ("stage_b", 2)])
def test_each_stage_has_a_cosine(work, stage, epochs):
  meta = phases.start_step_sizes(work, phases.create_student(work))
  before = jax.device_get(meta.weights)
  bits = {layer.name: 4 for layer in work.network.searched_layers}
  after = phases.train_weights(work, stage, meta, bits, None)[0].weights
  assert_moved(before, after, half_cosine(0.01, 0, epochs * STEPS_PER_EPOCH))


def test_bit_selection_has_a_constant_rate_for_weights_and_a_cosine_for_alpha(work):
  meta, archs = phases.start_step_sizes(work, phases.create_student(work)), phases.create_architectures(work)
  weights, alpha = jax.device_get((meta.weights, archs.alpha))
  meta, archs = phases.select_bits(work, meta, archs, None)
  assert_moved(weights, meta.weights, 3 * STEPS_PER_EPOCH * 0.01)
  assert_moved(alpha, archs.alpha, half_cosine(0.3, 0.02, 2 * STEPS_PER_EPOCH))
