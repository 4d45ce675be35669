"""The depthwise convolution of our own against XLA's, in value and both gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metamix_jax.nn.convolution import convolve, window_of
from metamix_jax.nn.depthwise import shifted_depthwise

# Rows and columns: odd and even, and smaller than the kernel.
SIZES = ((1, 2), (7, 6), (8, 5))


def depthwise(x, kernel, stride, implementation):
  return convolve(x, kernel, window_of(x.shape[1:3], kernel.shape[:2], stride), x.shape[-1], implementation)


def value_and_gradients(implementation, stride, x, kernel, dy_seed=0):
  y, pull_back = jax.vjp(lambda x, kernel: depthwise(x, kernel, stride, implementation), x, kernel)
  dy = jax.random.normal(jax.random.key(dy_seed), y.shape, jnp.float32).astype(y.dtype)
  return y, *pull_back(dy)


def operands(size, kernel_size, dtype=np.float32):
  rng = np.random.default_rng((*size, kernel_size))
  x = rng.normal(size=(2, *size, 3)).astype(np.float32)
  kernel = rng.normal(size=(kernel_size, kernel_size, 1, 3)).astype(np.float32)
  return jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)


@pytest.mark.parametrize("kernel_size, sizes", [
    (3, SIZES), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((5, SIZES), (7, SIZES[-1:])))])
@pytest.mark.parametrize("stride", [1, 2])
def test_shifted_equals_native(kernel_size, sizes, stride):
  cases = [operands(size, kernel_size) for size in sizes]
  run = jax.jit(lambda implementation: [value_and_gradients(implementation, stride, *case) for case in cases],
                static_argnums=0)
  for size, shifted, native in zip(sizes, run("shifted"), run("native"), strict=True):
    for name, ours, xla in zip(("value", "input gradient", "kernel gradient"), shifted, native, strict=True):
      # Sums of at most 2 * 8 * 6 terms of order 1 in another order.
      np.testing.assert_allclose(ours, xla, rtol=1e-5, atol=2e-5, err_msg=f"{size} {name}")


@pytest.mark.parametrize("rows, stride", [(28, 1), (30, 2), (17, 1)])
def test_the_kernel_gradient_of_many_rows_is_exact(rows, stride):
  """28 output rows are added in two parts, 15 in three and 17, a prime, one by one; all values are integers."""
  rng = np.random.default_rng(rows)
  x, kernel = (rng.integers(-4, 5, shape).astype(np.float32) for shape in ((2, rows, 5, 3), (3, 3, 1, 3)))
  dy = rng.integers(-4, 5, (2, (rows - 1) // stride + 1, (5 - 1) // stride + 1, 3)).astype(np.float32)
  gradients = [
      jax.vjp(lambda kernel, name=name: depthwise(x, kernel, stride, name), kernel)[1](dy)[0]
      for name in ("shifted", "native")]
  np.testing.assert_array_equal(*gradients)


@pytest.mark.parametrize("stride", [1, 2])
def test_bfloat16_stays_within_its_precision(stride):
  x, kernel = operands((8, 8), 3, jnp.bfloat16)
  exact = value_and_gradients("native", stride, x.astype(jnp.float32), kernel.astype(jnp.float32))
  ours = value_and_gradients("shifted", stride, x, kernel)
  for mine, reference in zip(ours[:2], exact[:2], strict=True):
    assert mine.dtype == jnp.bfloat16
    # Nine terms of up to 8 bits: each addition rounds by 2^-9 of a partial sum of order 10.
    np.testing.assert_allclose(np.asarray(mine, np.float32), reference, atol=9 * 10 * 2**-9)


def test_under_vmap_and_pmap():
  x, kernel = operands((7, 6), 5)
  batches = jnp.stack([x, 2 * x, x + 1, -x])
  run = functools.partial(value_and_gradients, "shifted", 2)
  one_by_one = [run(batch, kernel) for batch in batches]
  for mapped in (jax.vmap(run, (0, None)), jax.pmap(run, in_axes=(0, None))):
    for ours, expected in zip(mapped(batches, kernel), zip(*one_by_one, strict=True), strict=True):
      np.testing.assert_allclose(ours, np.stack(expected), rtol=1e-5, atol=1e-5)


def test_auto_is_shifted_on_cpu():
  x, kernel = operands((8, 8), 3)
  auto = jax.make_jaxpr(lambda x: depthwise(x, kernel, 1, "auto"))(x)
  assert str(auto) == str(jax.make_jaxpr(lambda x: shifted_depthwise(x, kernel, 1))(x))
  assert "conv_general_dilated" in str(jax.make_jaxpr(lambda x: depthwise(x, kernel, 1, "native"))(x))


def test_an_unknown_implementation_is_an_error():
  with pytest.raises(ValueError, match="depthwise is 'fast'; allowed are auto, shifted, native"):
    depthwise(*operands((8, 8), 3), 1, "fast")
