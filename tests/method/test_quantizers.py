"""M1-M8 against golden arrays from an independent implementation, and VJPs against stop_gradient references."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metamix_jax.method import bit_mixture, bops, quantizers
from metamix_jax.method.quantizers import CodeRange
from metamix_jax.nn.layers import activation_step_sizes

GOLDEN = np.load(pathlib.Path(__file__).parent / "data" / "quantizers.npz")
RANGES = {"unsigned": "unsigned", "signed": "signed", "hswish": "hard_swish"}


def assert_relative(actual, expected, relative=1e-5):
  assert np.linalg.norm(actual - expected) <= relative * np.linalg.norm(expected)


def quantized(x, step_size, bits, input_range, num_elements):
  codes = quantizers.code_range(bits, input_range)
  scale = quantizers.step_size_gradient_scale(num_elements, codes.highest)
  shift = quantizers.input_shift(input_range)
  return quantizers.fake_quantize(x + shift, step_size, codes, scale) - shift


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("name", RANGES)
def test_activations(name, bits):
  x, dy = GOLDEN[f"{name}_x"], GOLDEN[f"{name}_dy"]
  levels = quantizers.code_range(bits, "unsigned").highest
  step_size = quantizers.initial_step_size(jnp.mean(jnp.abs(x)), levels)
  np.testing.assert_allclose(step_size, GOLDEN[f"{name}_b{bits}_s"][0], rtol=1e-6)
  y, pullback = jax.vjp(
      lambda x, s: quantized(x, s, bits, RANGES[name], x.size), x, jnp.float32(GOLDEN[f"{name}_b{bits}_s"][0]))
  dx, ds = pullback(dy)
  np.testing.assert_allclose(y, GOLDEN[f"{name}_b{bits}_y"], atol=1e-6)
  np.testing.assert_array_equal(dx, GOLDEN[f"{name}_b{bits}_dx"])
  np.testing.assert_allclose(ds, GOLDEN[f"{name}_b{bits}_ds"][0], rtol=1e-5)


def test_ties_and_clip_edges_exactly():
  y, pullback = jax.vjp(lambda x, s: quantized(x, s, 4, "unsigned", 14), GOLDEN["edge_x"], jnp.float32(0.25))
  dx, ds = pullback(GOLDEN["edge_dy"])
  np.testing.assert_array_equal(y, GOLDEN["edge_y"])
  np.testing.assert_array_equal(dx, GOLDEN["edge_dx"])
  np.testing.assert_allclose(ds, GOLDEN["edge_ds"][0], rtol=1e-6)


def test_step_sizes_start_within_reach_of_small_hard_swish_values():
  """mean|x| = 0.06: at 2 and 3 bits M4's start would clip every value to one; from 4 bits on it is kept."""
  magnitude = jnp.float32(0.06)
  step_sizes = activation_step_sizes(magnitude, (2, 3, 4, 8), "hard_swish")
  m4 = [2 * 0.06 / np.sqrt(2**b - 1) for b in (2, 3, 4, 8)]
  np.testing.assert_allclose(step_sizes, [0.435 / 3, 0.435 / 7, m4[2], m4[3]], rtol=1e-6)
  np.testing.assert_allclose(activation_step_sizes(magnitude, (2, 3, 4, 8), "unsigned"), m4, rtol=1e-6)
  np.testing.assert_allclose(activation_step_sizes(magnitude, (2, 3, 4, 8), "signed"), m4, rtol=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_by_output_channel(bits):
  kernel, dy = (GOLDEN[f"weight_{name}_oihw"].transpose(2, 3, 1, 0) for name in ("w", "dy"))
  magnitude = jnp.mean(jnp.abs(kernel), axis=(0, 1, 2))
  step_sizes = quantizers.initial_step_size(magnitude, quantizers.code_range(bits, "signed").highest)
  np.testing.assert_allclose(step_sizes, GOLDEN[f"weight_b{bits}_s"], rtol=1e-6)
  y, pullback = jax.vjp(
      lambda w, s: quantized(w, s, bits, "signed", w.size), kernel, jnp.asarray(GOLDEN[f"weight_b{bits}_s"]))
  dw, ds = pullback(dy)
  np.testing.assert_allclose(y, GOLDEN[f"weight_b{bits}_y"].transpose(2, 3, 1, 0), atol=1e-6)
  np.testing.assert_array_equal(dw, GOLDEN[f"weight_b{bits}_dw"].transpose(2, 3, 1, 0))
  assert_relative(ds, GOLDEN[f"weight_b{bits}_ds"])


@pytest.mark.parametrize("bits", range(2, 9))
def test_number_of_levels(bits):
  x = jnp.linspace(-400, 400, 8001)
  ones, scale = jnp.float32(1), jnp.float32(1)
  for input_range, levels in (("unsigned", 2**bits), ("signed", 2**bits - 1)):
    y = quantizers.fake_quantize(x, ones, quantizers.code_range(bits, input_range), scale)
    assert len(np.unique(y)) == levels


def lsq_reference(x, s, n, p, g):
  """LSQ as published: pseudo-code with stop_gradient, nothing shared with the package."""
  s = jax.lax.stop_gradient(s - s * g) + s * g
  scaled = jnp.minimum(jnp.maximum(x / s, n), p)
  return (scaled + jax.lax.stop_gradient(jnp.round(scaled) - scaled)) * s


def test_vjp_against_stop_gradient_reference():
  key_x, key_dy = jax.random.split(jax.random.key(0))
  x, dy = jax.random.normal(key_x, (5, 7)), jax.random.normal(key_dy, (5, 7))
  codes, g = quantizers.code_range(3, "signed"), jnp.float32(0.05)
  for s in (jnp.float32(0.3), jnp.linspace(0.1, 0.5, 7)):
    y, pullback = jax.vjp(lambda x, s: quantizers.fake_quantize(x, s, codes, g), x, s)
    expected, reference = jax.vjp(lambda x, s: lsq_reference(x, s, *codes, g), x, s)
    np.testing.assert_allclose(y, expected, atol=1e-6)
    for actual, wanted in zip(pullback(dy), reference(dy), strict=True):
      np.testing.assert_allclose(actual, wanted, atol=1e-6)


def test_mixture_golden():
  bits = jnp.asarray(GOLDEN["mix_bits"])
  codes = quantizers.code_range(bits, "unsigned")
  scales = quantizers.step_size_gradient_scale(GOLDEN["mix_x"].size, codes.highest)
  y, pullback = jax.vjp(
      lambda x, alpha: bit_mixture.mix_bit_widths(
          x, jnp.asarray(GOLDEN["mix_s"]), bit_mixture.bit_probabilities(alpha), codes, scales),
      GOLDEN["mix_x"], jnp.asarray(GOLDEN["mix_alpha"]))
  dx, dalpha = pullback(GOLDEN["mix_dy"])
  np.testing.assert_allclose(y, GOLDEN["mix_y"], atol=1e-6)
  assert_relative(dx, GOLDEN["mix_dx"])
  assert_relative(dalpha, GOLDEN["mix_dalpha"])


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


def test_straight_through_cost():
  layers = [
      bops.LayerCost(str(i), int(macs), 1, tuple(int(b) for b in GOLDEN["bops_bits"]), int(bits), "conv", "unsigned")
      for i, (macs, bits) in enumerate(zip(GOLDEN["bops_macs"], GOLDEN["bops_weight_bits"], strict=True))
  ]

  def cost(alpha):
    bits = bit_mixture.straight_through_selection(alpha) @ jnp.asarray(GOLDEN["bops_bits"], jnp.float32)
    return bops.gbops(layers, {str(i): bits[i] for i in range(3)})

  value, gradient = jax.value_and_grad(cost)(jnp.asarray(GOLDEN["bops_alpha"]))
  np.testing.assert_allclose(value, GOLDEN["bops_g"], rtol=1e-6)
  assert_relative(gradient, GOLDEN["bops_dalpha"])


def test_first_of_equal_maxima_is_selected():
  np.testing.assert_array_equal(bit_mixture.straight_through_selection(jnp.zeros((2, 3))), [[1, 0, 0]] * 2)


def test_step_sizes_stay_positive():
  np.testing.assert_array_equal(
      quantizers.keep_positive({"s": jnp.array([-1.0, 0.0, 0.5])}, 0.25)["s"], [0.25, 0.25, 0.5])


def test_unknown_range():
  with pytest.raises(ValueError, match="input_range is 'relu'"):
    quantizers.code_range(4, "relu")


def test_code_range_is_data():
  assert quantizers.code_range(jnp.int32(4), "signed") == CodeRange(-7, 7)
