"""Batch norm: its gradient against autodiff, over devices, and PyTorch's running statistics by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from metamix_jax.nn.batch_norm import BatchNorm, normalize_batch

EPSILON = 1e-3


def reference(x, scale, bias):
  axes = tuple(range(x.ndim - 1))
  mean = jnp.mean(x, axes)
  variance = jnp.mean((x - mean)**2, axes)
  return (x - mean) / jnp.sqrt(variance + EPSILON) * scale + bias


def operands():
  rng = np.random.default_rng(0)
  x = (3 + 2 * rng.normal(size=(8, 3, 2, 5))).astype(np.float32)
  return x, rng.uniform(0.5, 2, 5).astype(np.float32), rng.normal(size=5).astype(np.float32), rng.normal(
      size=x.shape).astype(np.float32)


def tolerance(x):
  """2e-6, times what E[x^2] - E[x]^2 makes of a rounding error: E[x^2] / Var[x] of the worst channel, 3.4 here."""
  x = x.astype(np.float64).reshape(-1, x.shape[-1])
  return 2e-6 * float(np.max(np.mean(x**2, 0) / np.var(x, 0)))


def test_value_and_gradients_equal_autodiff():
  x, scale, bias, dy = operands()
  y, pull_back = jax.vjp(lambda *args: normalize_batch(*args, EPSILON, None)[0], x, scale, bias)
  expected, expected_pull_back = jax.vjp(reference, x, scale, bias)
  np.testing.assert_allclose(y, expected, atol=tolerance(x))
  for name, ours, autodiff in zip(("x", "scale", "bias"), pull_back(dy), expected_pull_back(dy), strict=True):
    np.testing.assert_allclose(ours, autodiff, atol=1e-6, rtol=tolerance(x), err_msg=name)


def test_moments_of_channels_far_from_zero_and_of_constant_ones():
  """Mean 100 deviations from 0: the variance keeps 7 - log10(100^2) digits, and is never negative."""
  rng = np.random.default_rng(1)
  x = np.stack([1000 + 10 * rng.normal(size=(64, 8, 8)), np.full((64, 8, 8), 1.1)], -1).astype(np.float32)
  y, mean, variance = normalize_batch(x, jnp.ones(2), jnp.zeros(2), EPSILON, None)
  exact = x.astype(np.float64).reshape(-1, 2)
  np.testing.assert_allclose(mean, exact.mean(0), rtol=1e-6)
  np.testing.assert_allclose(variance[0], exact[:, 0].var(), rtol=1e-3)
  assert 0 <= variance[1] < 2e-6 * 1.1**2  # 2e-6 of E[x^2], as in `tolerance`: GPUs add in another order.
  np.testing.assert_allclose(y[..., 1], 0, atol=1e-5)


def test_four_devices_normalise_as_one():
  x, scale, bias, dy = operands()

  def gradients(x, dy, axis_name):
    y, pull_back = jax.vjp(lambda *args: normalize_batch(*args, EPSILON, axis_name)[0], x, scale, bias)
    return y, *pull_back(dy)

  def split(values):
    return values.reshape(4, 2, *values.shape[1:])

  y, dx, dscale, dbias = jax.pmap(lambda x, dy: gradients(x, dy, "batch"), axis_name="batch")(split(x), split(dy))
  expected = gradients(x, dy, None)
  np.testing.assert_allclose(y.reshape(x.shape), expected[0], atol=tolerance(x))
  np.testing.assert_allclose(dx.reshape(x.shape), expected[1], atol=tolerance(x) / 2)
  # Each replica has its own part of the parameters' gradients.
  np.testing.assert_allclose(dscale.sum(0), expected[2], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(dbias.sum(0), expected[3], rtol=1e-5, atol=1e-5)


def test_running_statistics_and_moments_by_hand():
  # Channel values 1, 2, 3, 6: mean 3, squared deviations 4 + 1 + 0 + 9 = 14, unbiased variance 14 / 3.
  x = jnp.array([1.0, 2.0, 3.0, 6.0]).reshape(4, 1, 1, 1)
  module = BatchNorm(None, momentum=0.9, epsilon=1e-5)
  variables = {
      "params": {"scale": jnp.ones(1), "bias": jnp.zeros(1)},
      "batch_stats": {"mean": jnp.array([10.0]), "var": jnp.array([2.0])},
  }
  _, written = module.apply(variables, x, train=True, mutable=["batch_stats", "batch_moments"])
  np.testing.assert_allclose(written["batch_stats"]["mean"], [0.9 * 10 + 0.1 * 3], rtol=1e-6)
  np.testing.assert_allclose(written["batch_stats"]["var"], [0.9 * 2 + 0.1 * 14 / 3], rtol=1e-6)
  np.testing.assert_allclose(written["batch_moments"]["mean"], [3], rtol=1e-6)
  np.testing.assert_allclose(written["batch_moments"]["var"], [14 / 3], rtol=1e-6)
  evaluated = module.apply(variables, x, train=False)
  np.testing.assert_allclose(evaluated, (x - 10) / np.sqrt(2 + 1e-5), rtol=1e-6)


def test_without_synchronisation_each_part_is_normalised_by_itself():
  """Two replicas with the values 1, 3 and 10, 14: means 2 and 12, unbiased variances 2 and 8."""
  x = jnp.array([[1.0, 3.0], [10.0, 14.0]]).reshape(2, 2, 1, 1, 1)
  module = BatchNorm("batch", momentum=0.9, epsilon=0.0, synchronized=False)
  variables = {
      "params": {"scale": jnp.ones(1), "bias": jnp.zeros(1)},
      "batch_stats": {"mean": jnp.array([0.0]), "var": jnp.array([1.0])},
  }
  y, written = jax.vmap(
      lambda part: module.apply(variables, part, train=True, mutable=["batch_stats", "batch_moments"]),
      axis_name="batch")(x)
  np.testing.assert_allclose(y.ravel(), [-1, 1, -1, 1], rtol=1e-6)
  for collection, mean, variance in (("batch_moments", 7, 5), ("batch_stats", 0.7, 0.9 + 0.5)):
    np.testing.assert_allclose(written[collection]["mean"].ravel(), [mean, mean], rtol=1e-6)
    np.testing.assert_allclose(written[collection]["var"].ravel(), [variance, variance], rtol=1e-6)
