"""The gradients written out in convolution.py against XLA's own."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metamix_jax.nn.convolution import Window, convolve, window_of

# Odd and even, square and not, smaller than the kernel.
SIZES = ((1, 2), (8, 7), (13, 14))


def ours(x, kernel, stride, groups=1):
  return convolve(x, kernel, window_of(x.shape[1:3], kernel.shape[:2], stride), groups)


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
  for size, results, reference in zip(SIZES, run(ours), run(xla), strict=True):
    for mine, native in zip(results, reference, strict=True):
      # Sums of at most 2 * 13 * 14 terms of order 1 in another order.
      np.testing.assert_allclose(mine, native, rtol=1e-5, atol=2e-5, err_msg=str(size))


# Strides, padding and dilation of rows and columns apart; even kernels; zeros that no window reads.
@pytest.mark.parametrize("kernel_size, strides, padding, dilation", [
    ((3, 3), 1, None, 2), ((3, 5), (2, 1), None, (2, 3)), ((2, 2), 2, "VALID", 1), ((4, 4), 4, 0, 1),
    ((3, 3), 2, "SAME", 1), ((2, 4), (1, 3), "SAME", 1),
    ((3, 3), 2, 3, 1), ((3, 2), (3, 2), ((0, 2), (1, 0)), (1, 2)), ((1, 1), 1, (1, 2), 1)])
def test_gradients_of_any_window(kernel_size, strides, padding, dilation):
  cases = [operands(size, kernel_size) for size in ((8, 7), (13, 14))]
  windows_and_cases = [
      (window_of(case[0].shape[1:3], kernel_size, strides, padding, dilation), *case) for case in cases]

  def general(x, kernel, window, groups):
    return jax.lax.conv_general_dilated(
        x, kernel, window.strides, window.padding, rhs_dilation=window.dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups)

  run = jax.jit(
      lambda function: [value_and_gradients(function, *both) for both in windows_and_cases], static_argnums=0)
  for results, reference in zip(run(convolve), run(general), strict=True):
    for mine, native in zip(results, reference, strict=True):
      np.testing.assert_allclose(mine, native, rtol=1e-5, atol=2e-5)


def test_windows_by_hand():
  assert window_of((8, 8), (3, 5)) == Window((1, 1), ((1, 1), (2, 2)), (1, 1))
  assert window_of((8, 8), (3, 3), (2, 1), None, (1, 3)) == Window((2, 1), ((1, 1), (3, 3)), (1, 3))
  assert window_of((224, 224), (16, 16), 16, "VALID") == Window((16, 16), ((0, 0), (0, 0)), (1, 1))
  # SAME of 7 by 2 with stride 2: ceil(7 / 2) = 4 positions reach over 8 elements, one zero, behind.
  assert window_of((7, 8), (2, 2), 2, "SAME") == Window((2, 2), ((0, 1), (0, 0)), (1, 1))
  assert window_of((8, 8), (2, 2), padding=(1, (0, 2))) == Window((1, 1), ((1, 1), (0, 2)), (1, 1))


@pytest.mark.parametrize("fields, sentence", [
    (dict(kernel_size=(16, 16), strides=16), r"kernel_size is \(16, 16\) and padding is None"),
    (dict(kernel_size=(3, 3), strides=0), "strides is 0; allowed are"),
    (dict(kernel_size=(3, 3), strides=(1, 2, 3)), r"strides is \(1, 2, 3\); allowed are"),
    (dict(kernel_size=(3, 3), kernel_dilation="2"), "kernel_dilation is '2'; allowed are"),
    (dict(kernel_size=(3, 3), padding="CIRCULAR"), "padding is 'CIRCULAR'; allowed are"),
    (dict(kernel_size=(3, 3), padding=(1, 2, 3)), r"padding is \(1, 2, 3\); allowed are"),
    (dict(kernel_size=(3, 3), padding=-1), "padding is -1; allowed are"),
    (dict(kernel_size=(3, 3), padding=1.5), "padding is 1.5; allowed are"),
    (dict(kernel_size=(9, 9), padding="VALID"), r"does not fit into an input of \(8, 8\)"),
])
def test_a_wrong_window_is_a_sentence(fields, sentence):
  with pytest.raises(ValueError, match=sentence):
    window_of((8, 8), **fields)


def test_groups():
  case = operands((8, 5), (3, 3), groups=2)
  for mine, reference in zip(*(value_and_gradients(f, 2, *case, groups=2) for f in (ours, xla)), strict=True):
    np.testing.assert_array_equal(mine, reference)


def test_bfloat16_keeps_its_type():
  case = operands((8, 8), (3, 3), dtype=jnp.bfloat16)
  y, pull_back = jax.vjp(lambda x, kernel: ours(x, kernel, 2), *case)
  exact_case = (array.astype(jnp.float32) for array in case)
  y_exact, pull_back_exact = jax.vjp(lambda x, kernel: xla(x, kernel, 2), *exact_case)
  dy = jax.random.normal(jax.random.key(0), y.shape, jnp.bfloat16)
  exact = (y_exact, *pull_back_exact(dy.astype(jnp.float32)))
  for mine, reference in zip((y, *pull_back(dy)), exact, strict=True):
    assert mine.dtype == jnp.bfloat16
    # Summed in float32 and rounded once, by at most 2^-9 of the value; the rest is float32's order of sums.
    np.testing.assert_allclose(np.asarray(mine, np.float32), reference, rtol=2**-8, atol=1e-5)


def test_under_pmap():
  x, kernel = operands((7, 6), (3, 3))
  batches = jnp.stack([x, 2 * x, x + 1, -x])
  run = lambda batch: value_and_gradients(ours, 2, batch, kernel)
  one_by_one = [jax.jit(run)(batch) for batch in batches]
  for mine, expected in zip(jax.pmap(run)(batches), zip(*one_by_one, strict=True), strict=True):
    np.testing.assert_allclose(mine, np.stack(expected), rtol=1e-6, atol=1e-5)


def test_in_a_loop_every_convolution_has_the_form_of_the_library():
  """XLA's own gradients have other forms there: why the module exists. The last line shows that this test sees it."""
  x, kernel = operands((7, 6), (3, 3))
  batches = jnp.stack([x, 2 * x, x + 1, -x])

  def forms(function):
    run = lambda batch: value_and_gradients(function, 2, batch, kernel)
    compiled = jax.jit(lambda batches: jax.lax.map(run, batches)).lower(batches).compile()
    if function is ours:
      for mine, expected in zip(compiled(batches), zip(*map(jax.jit(run), batches), strict=True), strict=True):
        np.testing.assert_allclose(mine, np.stack(expected), rtol=1e-6, atol=1e-5)
    found = re.findall(r"dim_labels=(\S+?),? ", compiled.as_text())
    assert len(found) == 3
    return {form.rstrip(",") for form in found}

  assert forms(ours) == {"b01f_01io->b01f"}
  assert forms(xla) > {"b01f_01io->b01f"}
