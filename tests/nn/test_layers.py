"""The step sizes that a layer starts from, and the input that its product sees."""

import jax.numpy as jnp
import numpy as np
import pytest

from metamix_jax.nn.layers import QuantDense, activation_step_sizes
from metamix_jax.nn.scheme import QuantizationScheme


def test_step_sizes_start_within_reach_of_small_hard_swish_values():
  """mean|x| = 0.06: at 2 and 3 bits M4's start would clip every value to one; from 4 bits on it is kept."""
  magnitude = jnp.float32(0.06)
  step_sizes = activation_step_sizes(magnitude, (2, 3, 4, 8), "hard_swish")
  m4 = [2 * 0.06 / np.sqrt(2**b - 1) for b in (2, 3, 4, 8)]
  np.testing.assert_allclose(step_sizes, [0.435 / 3, 0.435 / 7, m4[2], m4[3]], rtol=1e-6)
  np.testing.assert_allclose(activation_step_sizes(magnitude, (2, 3, 4, 8), "unsigned"), m4, rtol=1e-6)
  np.testing.assert_allclose(activation_step_sizes(magnitude, (2, 3, 4, 8), "signed"), m4, rtol=1e-6)


@pytest.mark.parametrize("input_range", ["unsigned", "signed", "hard_swish"])
def test_the_shift_is_added_before_quantisation_and_subtracted_after(input_range):
  """The layer's input, read back through an identity kernel, is that of NumPy: one bit-width, and the mixture."""
  layer = QuantDense(QuantizationScheme((2, 4, 8), 4, 8), input_range, 3)
  x = np.array([[-3.0, -0.375, -0.3], [-0.2, 0.0, 0.1], [0.3, 0.7, 9.0]], np.float32)
  step_sizes, pi = np.array([0.5, 0.125, 0.0625], np.float32), np.array([0.25, 0.5, 0.25], np.float32)
  shift = 3 / 8 if input_range == "hard_swish" else 0
  branches = []
  for step_size, bits in zip(step_sizes, (2, 4, 8), strict=True):
    highest = 2 ** (bits - 1) - 1 if input_range == "signed" else 2**bits - 1
    lowest = -highest if input_range == "signed" else 0
    branches.append(step_size * np.round(np.clip((x + shift) / step_size, lowest, highest)) - shift)
  variables = {"params": {"kernel": np.eye(3, dtype=np.float32), "bias": np.zeros(3, np.float32)},
               "step_sizes": {"activation": step_sizes}}
  for index, expected in enumerate(branches):
    actual = layer.apply(variables | {"precision": {"candidate": jnp.int32(index)}}, x)
    np.testing.assert_allclose(actual, expected, atol=1e-6)
  actual = layer.apply(variables | {"precision": {"probabilities": pi}}, x)
  np.testing.assert_allclose(actual, sum(p * branch for p, branch in zip(pi, branches, strict=True)), atol=1e-6)


def test_the_shift_is_added_in_float32():
  """In bfloat16, x + 3/8 would keep 8 bits of the sum, and the 8-bit codes of some of these values would be others.
  """
  layer = QuantDense(QuantizationScheme((4, 8), 4, 8), "hard_swish", 16)
  x = jnp.linspace(0.13, 0.27, 16, dtype=jnp.bfloat16)[None]
  step_size = np.float32(0.00254)  # Codes up to 255 reach 0.65; bfloat16 has steps of 0.0039 there.
  variables = {
      "params": {"kernel": np.eye(16, dtype=np.float32), "bias": np.zeros(16, np.float32)},
      "step_sizes": {"activation": np.array([1, step_size], np.float32)}, "precision": {"candidate": jnp.int32(1)}}
  y = layer.apply(variables, x)
  codes = lambda shifted: np.round(np.clip(np.asarray(shifted, np.float32) / step_size, 0, 255))
  exact = codes(np.asarray(x, np.float32) + np.float32(0.375))
  assert y.dtype == jnp.bfloat16 and np.any(codes(x + jnp.bfloat16(0.375)) != exact)
  np.testing.assert_array_equal(y, jnp.asarray(step_size * exact - np.float32(0.375)).astype(jnp.bfloat16))
