"""The gradients written out in convolution.py against XLA's own."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metamix_jax.nn.convolution import convolve

# Odd and even, square and not, smaller than the kernel.
SIZES = ((1, 2), (8, 7), (13, 14))


def xla(x, kernel, stride, groups=1):
  padding = [(size // 2, size // 2) for size in kernel.shape[:2]]
  return jax.lax.conv_general_dilated(
      x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups)


def operands(size, kernel_size, groups=1, dtype=jnp.float32):
  rng = np.random.default_rng((*size, *kernel_size))
  x, kernel = rng.normal(size=(2, *size, 4)), rng.normal(size=(*kernel_size, 4 // groups, 6))
  return jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)


def value_and_gradients(function, stride, x, kernel, groups=1):
  y, pull_back = jax.vjp(lambda x, kernel: function(x, kernel, stride, groups), x, kernel)
  return y, *pull_back(jax.random.normal(jax.random.key(0), y.shape, jnp.float32).astype(y.dtype))


@pytest.mark.parametrize("kernel_size, stride", [((1, 1), 2), ((3, 3), 1), ((3, 3), 2), ((7, 7), 2), ((3, 5), 3)])
def test_gradients(kernel_size, stride):
  cases = [operands(size, kernel_size) for size in SIZES]
  run = jax.jit(lambda function: [value_and_gradients(function, stride, *case) for case in cases], static_argnums=0)
  for size, ours, reference in zip(SIZES, run(convolve), run(xla), strict=True):
    for mine, native in zip(ours, reference, strict=True):
      # Sums of at most 2 * 13 * 14 terms of order 1 in another order.
      np.testing.assert_allclose(mine, native, rtol=1e-5, atol=2e-5, err_msg=str(size))


def test_groups():
  case = operands((8, 5), (3, 3), groups=2)
  for ours, reference in zip(*(value_and_gradients(f, 2, *case, groups=2) for f in (convolve, xla)), strict=True):
    np.testing.assert_array_equal(ours, reference)


def test_bfloat16_keeps_its_type():
  case = operands((8, 8), (3, 3), dtype=jnp.bfloat16)
  y, pull_back = jax.vjp(lambda x, kernel: convolve(x, kernel, 2), *case)
  exact_case = (array.astype(jnp.float32) for array in case)
  y_exact, pull_back_exact = jax.vjp(lambda x, kernel: xla(x, kernel, 2), *exact_case)
  dy = jax.random.normal(jax.random.key(0), y.shape, jnp.bfloat16)
  exact = (y_exact, *pull_back_exact(dy.astype(jnp.float32)))
  for ours, reference in zip((y, *pull_back(dy)), exact, strict=True):
    assert ours.dtype == jnp.bfloat16
    # Summed in float32 and rounded once, by at most 2^-9 of the value; the rest is float32's order of sums.
    np.testing.assert_allclose(np.asarray(ours, np.float32), reference, rtol=2**-8, atol=1e-5)


def test_under_pmap():
  x, kernel = operands((7, 6), (3, 3))
  batches = jnp.stack([x, 2 * x, x + 1, -x])
  run = lambda batch: value_and_gradients(convolve, 2, batch, kernel)
  one_by_one = [jax.jit(run)(batch) for batch in batches]
  for ours, expected in zip(jax.pmap(run)(batches), zip(*one_by_one), strict=True):
    np.testing.assert_allclose(ours, np.stack(expected), rtol=1e-6, atol=1e-5)


def test_in_a_loop_every_convolution_has_the_form_of_the_library():
  """XLA's own gradients have other forms there: why the module exists. The last line shows that this test sees it."""
  x, kernel = operands((7, 6), (3, 3))
  batches = jnp.stack([x, 2 * x, x + 1, -x])

  def forms(function):
    run = lambda batch: value_and_gradients(function, 2, batch, kernel)
    compiled = jax.jit(lambda batches: jax.lax.map(run, batches)).lower(batches).compile()
    if function is convolve:
      for ours, expected in zip(compiled(batches), zip(*map(jax.jit(run), batches)), strict=True):
        np.testing.assert_allclose(ours, np.stack(expected), rtol=1e-6, atol=1e-5)
    found = re.findall(r"dim_labels=(\S+?),? ", compiled.as_text())
    assert len(found) == 3
    return {form.rstrip(",") for form in found}

  assert forms(convolve) == {"b01f_01io->b01f"}
  assert forms(xla) > {"b01f_01io->b01f"}
