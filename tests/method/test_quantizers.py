"""M1 to M4 against golden arrays of an independent implementation, and VJPs against a stop_gradient reference."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metamix_jax.method import quantizers
from metamix_jax.method.quantizers import CodeRange
from tests.helpers.quantization import ARRAYS, assert_relative, lsq_reference

RANGES = {"unsigned": "unsigned", "signed": "signed", "hswish": "hard_swish"}


def quantized(x, step_size, bits, input_range, num_elements):
  codes = quantizers.code_range(bits, input_range)
  scale = quantizers.step_size_gradient_scale(num_elements, codes.highest)
  shift = quantizers.input_shift(input_range)
  return quantizers.fake_quantize(x + shift, step_size, codes, scale) - shift


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("name", RANGES)
def test_activations(name, bits):
  x, dy = ARRAYS[f"{name}_x"], ARRAYS[f"{name}_dy"]
  levels = quantizers.code_range(bits, "unsigned").highest
  step_size = quantizers.initial_step_size(jnp.mean(jnp.abs(x)), levels)
  np.testing.assert_allclose(step_size, ARRAYS[f"{name}_b{bits}_s"][0], rtol=1e-6)
  y, pullback = jax.vjp(
      lambda x, s: quantized(x, s, bits, RANGES[name], x.size), x, jnp.float32(ARRAYS[f"{name}_b{bits}_s"][0]))
  dx, ds = pullback(dy)
  np.testing.assert_allclose(y, ARRAYS[f"{name}_b{bits}_y"], atol=1e-6)
  np.testing.assert_array_equal(dx, ARRAYS[f"{name}_b{bits}_dx"])
  np.testing.assert_allclose(ds, ARRAYS[f"{name}_b{bits}_ds"][0], rtol=1e-5)


def test_ties_and_clip_edges_exactly():
  y, pullback = jax.vjp(lambda x, s: quantized(x, s, 4, "unsigned", 14), ARRAYS["edge_x"], jnp.float32(0.25))
  dx, ds = pullback(ARRAYS["edge_dy"])
  np.testing.assert_array_equal(y, ARRAYS["edge_y"])
  np.testing.assert_array_equal(dx, ARRAYS["edge_dx"])
  np.testing.assert_allclose(ds, ARRAYS["edge_ds"][0], rtol=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_by_output_channel(bits):
  kernel, dy = (ARRAYS[f"weight_{name}_oihw"].transpose(2, 3, 1, 0) for name in ("w", "dy"))
  magnitude = jnp.mean(jnp.abs(kernel), axis=(0, 1, 2))
  step_sizes = quantizers.initial_step_size(magnitude, quantizers.code_range(bits, "signed").highest)
  np.testing.assert_allclose(step_sizes, ARRAYS[f"weight_b{bits}_s"], rtol=1e-6)
  y, pullback = jax.vjp(
      lambda w, s: quantized(w, s, bits, "signed", w.size), kernel, jnp.asarray(ARRAYS[f"weight_b{bits}_s"]))
  dw, ds = pullback(dy)
  np.testing.assert_allclose(y, ARRAYS[f"weight_b{bits}_y"].transpose(2, 3, 1, 0), atol=1e-6)
  np.testing.assert_array_equal(dw, ARRAYS[f"weight_b{bits}_dw"].transpose(2, 3, 1, 0))
  assert_relative(ds, ARRAYS[f"weight_b{bits}_ds"])


@pytest.mark.parametrize("bits", range(2, 9))
def test_number_of_levels(bits):
  x = jnp.linspace(-400, 400, 8001)
  ones, scale = jnp.float32(1), jnp.float32(1)
  for input_range, levels in (("unsigned", 2**bits), ("signed", 2**bits - 1)):
    y = quantizers.fake_quantize(x, ones, quantizers.code_range(bits, input_range), scale)
    assert len(np.unique(y)) == levels


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


def test_step_sizes_stay_positive():
  np.testing.assert_array_equal(
      quantizers.keep_positive({"s": jnp.array([-1.0, 0.0, 0.5])}, 0.25)["s"], [0.25, 0.25, 0.5])


def test_lowest_inputs():
  assert [quantizers.lowest_input(name) for name in quantizers.INPUT_RANGES] == [0, -math.inf, -0.375]


def test_unknown_range():
  with pytest.raises(ValueError, match="input_range is 'relu'"):
    quantizers.code_range(4, "relu")


def test_code_range_is_data():
  assert quantizers.code_range(jnp.int32(4), "signed") == CodeRange(-7, 7)
