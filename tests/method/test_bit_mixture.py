"""The mixture of bit-widths and its selection against golden arrays, and VJPs against a stop_gradient reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metamix_jax.method import bit_mixture, quantizers
from tests.helpers.quantization import ARRAYS, assert_relative, lsq_reference


def test_mixture_golden():
  bits = jnp.asarray(ARRAYS["mix_bits"])
  codes = quantizers.code_range(bits, "unsigned")
  scales = quantizers.step_size_gradient_scale(ARRAYS["mix_x"].size, codes.highest)
  y, pullback = jax.vjp(
      lambda x, alpha: bit_mixture.mix_bit_widths(
          x, jnp.asarray(ARRAYS["mix_s"]), bit_mixture.bit_probabilities(alpha), codes, scales),
      ARRAYS["mix_x"], jnp.asarray(ARRAYS["mix_alpha"]))
  dx, dalpha = pullback(ARRAYS["mix_dy"])
  np.testing.assert_allclose(y, ARRAYS["mix_y"], atol=1e-6)
  assert_relative(dx, ARRAYS["mix_dx"])
  assert_relative(dalpha, ARRAYS["mix_dalpha"])


def test_mixture_vjp_against_stop_gradient_reference():
  key_x, key_dy = jax.random.split(jax.random.key(1))
  x, dy = jax.random.normal(key_x, (6, 5)), jax.random.normal(key_dy, (6, 5))
  s, pi, g = jnp.array([0.4, 0.2, 0.02]), jnp.array([0.2, 0.5, 0.3]), jnp.array([0.1, 0.05, 0.02])
  codes = quantizers.code_range(jnp.array([3, 4, 8]), "signed")

  def reference(x, s, pi):
    return sum(pi[b] * lsq_reference(x, s[b], codes.lowest[b], codes.highest[b], g[b]) for b in range(3))

  actual = jax.vjp(lambda x, s, pi: bit_mixture.mix_bit_widths(x, s, pi, codes, g), x, s, pi)
  wanted = jax.vjp(reference, x, s, pi)
  np.testing.assert_allclose(actual[0], wanted[0], atol=1e-6)
  for mine, other in zip(actual[1](dy), wanted[1](dy), strict=True):
    np.testing.assert_allclose(mine, other, atol=2e-6)  # Sums of 30 terms of size 1.


def test_a_mixture_of_another_number_of_bit_widths_is_an_error():
  """As with the alpha of a search that had fewer candidates: a branch would be left out."""
  codes = quantizers.code_range(jnp.array([3, 4, 8]), "unsigned")
  with pytest.raises(ValueError, match="zip.. argument 2 is shorter"):
    bit_mixture.mix_bit_widths(jnp.ones((2, 4)), jnp.ones(3), jnp.full(2, 0.5), codes, jnp.ones(3))


def test_first_of_equal_maxima_is_selected():
  np.testing.assert_array_equal(bit_mixture.straight_through_selection(jnp.zeros((2, 3))), [[1, 0, 0]] * 2)


def test_the_selection_of_one_layer_by_hand():
  """alpha [B]: probabilities 1/8, 2/8 and 5/8, so 6.25 bits on average; the highest one is selected."""
  bits = jnp.array([2.0, 4.0, 8.0])
  selected, gradient = jax.value_and_grad(lambda alpha: bit_mixture.straight_through_selection(alpha) @ bits)(
      jnp.log(jnp.array([1.0, 2.0, 5.0])))
  assert selected == 8
  np.testing.assert_allclose(gradient, np.array([1 * -4.25, 2 * -2.25, 5 * 1.75]) / 8, rtol=1e-6)


def test_initial_alpha_is_normal_with_the_deviation():
  """2,000 draws: the deviation of their deviation is 1.6 %."""
  alpha = bit_mixture.initial_alpha(jax.random.key(0), 2000, 1e-3)
  assert alpha.shape == (2000,) and alpha.dtype == jnp.float32
  np.testing.assert_array_equal(alpha, np.float32(1e-3) * np.asarray(jax.random.normal(jax.random.key(0), (2000,))))
  assert abs(np.std(alpha) / 1e-3 - 1) < 0.1 and abs(np.mean(alpha)) < 1e-4
