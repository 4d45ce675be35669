"""Sums beside an elementwise result: the same on every path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metamix_jax.method.reductions import MIN_IMAGE_ELEMENTS, map_and_sum


@pytest.mark.parametrize("shape", [(3, 8, 8, 64), (3, 2, 2, 4), (5, 16)])  # Image by image; too small; no image.
def test_result_and_sums(shape):
  rng = np.random.default_rng(0)
  x, y = (rng.integers(-8, 8, shape).astype(np.float32) for _ in range(2))
  assert (np.prod(shape[1:]) >= MIN_IMAGE_ELEMENTS) == (shape == (3, 8, 8, 64))
  sums = jax.jit(lambda x, y: map_and_sum(lambda x, y: (x + y, (x * y, jnp.ones_like(x))), x, y))
  result, (products, ones) = sums(x, y)
  np.testing.assert_array_equal(result, x + y)
  assert float(products) == (x * y).sum() and float(ones) == x.size  # Integers: exact in any order.


def test_sums_of_bfloat16_are_float32():
  x = jnp.ones((2, 64, 64, 3), jnp.bfloat16)
  result, (total,) = map_and_sum(lambda x: (x, (x,)), x)
  assert result.dtype == jnp.bfloat16 and total.dtype == jnp.float32 and float(total) == x.size


@pytest.mark.parametrize("shape, loops", [
    ((2, 64, 64), True), ((2, 8, 8, 65), True), ((2, 63, 65), False), ((2, 2, 2, 1000), False), ((2, 4096), False)])
def test_the_loop_over_images_is_for_images_of_4096_elements_and_more(shape, loops):
  """4096 elements, more, one less, 4000 in a batch of more, and no image at all: only the loop is a scan."""
  program = jax.make_jaxpr(lambda x: map_and_sum(lambda x: (x, (x,)), x))(np.ones(shape, np.float32))
  assert ("scan[" in str(program)) == loops
