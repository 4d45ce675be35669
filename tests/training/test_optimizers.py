"""First updates of both optimisers, worked by hand."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metamix_jax.training.optimizers import arch_optimizer, cosine_schedule, weight_optimizer


def test_clip_over_everything_then_l2_on_convolution_kernels_then_adam():
  parameters = {
      "weights": {
          "conv": {"kernel": jnp.full((1, 1, 1, 1), 5.0)},
          "dense": {"kernel": jnp.full((1, 1), 5.0), "bias": jnp.array([5.0])},
      },
      "step_sizes": {"conv": {"activation": jnp.array([5.0])}},
  }
  # Global norm sqrt(4 * 30^2) = 60: clipped to 10, each entry becomes 5.
  gradients = {
      "weights": {
          "conv": {"kernel": jnp.full((1, 1, 1, 1), 30.0)},
          "dense": {"kernel": jnp.full((1, 1), 30.0), "bias": jnp.array([30.0])},
      },
      "step_sizes": {"conv": {"activation": jnp.array([30.0])}},
  }
  optimizer = weight_optimizer(0.1, beta1=0.9, beta2=0.999, epsilon=1e-8, conv_l2=0.2, max_gradient_norm=10.0)
  state = optimizer.init(parameters)
  updates, state = optimizer.update(gradients, state, parameters)
  # Adam's first update is -rate * g / (|g| + eps) whatever g is; the moments tell what g was.
  np.testing.assert_allclose(updates["weights"]["conv"]["kernel"], -0.1, rtol=2e-5)  # 1 - 0.999 in float32.
  moments = optax.tree_utils.tree_get_all_with_path(state, "mu")
  first = {label: values for path, values in moments for label in ("conv_kernel", "other_weight", "step_size")
           if label in str(path)}
  assert len(first) == 3
  # 0.1 * (5 + 0.2 * 5) with L2, 0.1 * 5 without.
  np.testing.assert_allclose(first["conv_kernel"]["weights"]["conv"]["kernel"], 0.6, rtol=1e-6)
  np.testing.assert_allclose(first["other_weight"]["weights"]["dense"]["kernel"], 0.5, rtol=1e-6)
  np.testing.assert_allclose(first["other_weight"]["weights"]["dense"]["bias"], 0.5, rtol=1e-6)
  np.testing.assert_allclose(first["step_size"]["step_sizes"]["conv"]["activation"], 0.5, rtol=1e-6)


def test_arch_optimizer_two_updates_by_hand():
  rate, beta1, beta2, epsilon, l2 = 0.01, 0.5, 0.999, 0.02, 1e-3
  alpha, expected = {"layer": jnp.array([0.5, -1.0])}, np.array([0.5, -1.0])
  optimizer = arch_optimizer(rate, beta1=beta1, beta2=beta2, epsilon=epsilon, l2=l2)
  state = optimizer.init(alpha)
  mean = square = np.zeros(2)
  for count, gradient in enumerate(([0.2, -0.1], [-0.3, 0.4]), start=1):
    updates, state = optimizer.update({"layer": jnp.array(gradient)}, state, alpha)
    alpha = optax.apply_updates(alpha, updates)
    regularised = np.array(gradient) + l2 * expected
    mean = beta1 * mean + (1 - beta1) * regularised
    square = beta2 * square + (1 - beta2) * regularised**2
    expected = expected - rate * (mean / (1 - beta1**count)) / (
        np.sqrt(square / (1 - beta2**count)) + epsilon)
    np.testing.assert_allclose(alpha["layer"], expected, rtol=1e-5)


@pytest.mark.parametrize("step, rate", [(0, 0.3), (50, 0.16), (100, 0.02), (200, 0.02)])
def test_cosine_from_start_to_end(step, rate):
  # Half way: the mean of 0.3 and 0.02.
  assert cosine_schedule(0.3, 0.02, 100)(step) == pytest.approx(rate, rel=1e-5)
  assert cosine_schedule(0.3, 0.3, 100)(step) == pytest.approx(0.3, rel=1e-5)
