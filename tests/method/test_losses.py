"""Losses and their gradients by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metamix_jax.method.losses import cost_penalty, limit_penalty, next_multiplier, soft_cross_entropy


def test_soft_cross_entropy_and_its_gradient_by_hand():
  logits = jnp.array([[0.0, jnp.log(3.0)], [0.0, 0.0]])  # Probabilities 1/4, 3/4 and 1/2, 1/2.
  target = jnp.array([[0.5, 0.5], [1.0, 0.0]])
  expected = (0.5 * np.log(4) + 0.5 * np.log(4 / 3) + np.log(2)) / 2
  loss, gradient = jax.value_and_grad(soft_cross_entropy)(logits, target)
  assert float(loss) == pytest.approx(expected, rel=1e-6)
  np.testing.assert_allclose(gradient, np.array([[-0.25, 0.25], [-0.5, 0.5]]) / 2, atol=1e-6)


def test_cost_penalty_on_both_sides():
  assert float(cost_penalty(3.0, 5.0, 4.0)) == 8.0 == float(cost_penalty(7.0, 5.0, 4.0))
  assert jax.grad(cost_penalty)(3.0, 5.0, 4.0) == -4.0
  assert jax.grad(cost_penalty)(7.0, 5.0, 4.0) == 4.0


def test_soft_cross_entropy_is_a_mean_over_images_and_a_sum_over_classes():
  """Three images, two classes: log 2 for each image, whatever its target."""
  target = jnp.array([[1.0, 0.0], [0.5, 0.5], [0.25, 0.75]])
  assert float(soft_cross_entropy(jnp.zeros((3, 2)), target)) == pytest.approx(np.log(2), rel=1e-6)
  loss = soft_cross_entropy(jnp.full((3, 2), 7, jnp.bfloat16), target)
  assert loss.dtype == jnp.float32 and float(loss) == pytest.approx(np.log(2), rel=1e-6)


@pytest.mark.parametrize("excess, multiplier, penalty, following", [
    (0.5, 3.0, 1.5, 3.05), (-0.5, 3.0, -1.5, 2.95), (-0.5, 0.25, -0.125, 0.2), (-0.5, 0.02, -0.01, 0.0),
    (0.0, 3.0, 0.0, 3.0), (2.0, 0.0, 0.0, 0.2)])
def test_a_limit_by_hand(excess, multiplier, penalty, following):
  excess, multiplier = jnp.float32(excess), jnp.float32(multiplier)
  assert limit_penalty(excess, multiplier) == pytest.approx(penalty, rel=1e-6)
  assert next_multiplier(multiplier, excess, jnp.float32(0.1)) == pytest.approx(following, rel=1e-6)
