"""Sums beside an elementwise result: the same on every path."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metamix_jax.method.reductions import map_and_sum


# By images; by parts of them; by rows; too small; no image.
@pytest.mark.parametrize("shape", [(3, 8, 8, 64), (2, 12, 32, 64), (2, 3, 130, 130), (3, 2, 2, 4), (5, 16)])
def test_result_and_sums(shape):
  rng = np.random.default_rng(0)
  x, y = (rng.integers(-8, 8, shape).astype(np.float32) for _ in range(2))
  sums = jax.jit(lambda x, y: map_and_sum(lambda x, y: (x + y, (x * y, jnp.ones_like(x))), x, y))
  result, (products, ones) = sums(x, y)
  np.testing.assert_array_equal(result, x + y)
  assert float(products) == (x * y).sum() and float(ones) == x.size  # Integers: exact in any order.


def test_sums_of_bfloat16_are_float32():
  x = jnp.ones((2, 64, 64, 3), jnp.bfloat16)
  result, (total,) = map_and_sum(lambda x: (x, (x,)), x)
  assert result.dtype == jnp.bfloat16 and total.dtype == jnp.float32 and float(total) == x.size


@pytest.mark.parametrize("shape, turns", [
    ((2, 64, 64), 2), ((2, 8, 8, 65), 2), ((2, 63, 65), 0), ((2, 2, 2, 1000), 0), ((2, 4096), 0),
    ((2, 16, 32, 64), 4), ((2, 10, 29, 113), 10), ((2, 3, 130, 130), 6), ((2, 7, 50, 50), 2), ((2, 32, 64, 2), 2),
    ((2, 12, 64, 64), 6), ((2, 15, 63, 65), 10), ((2, 9, 40, 40), 2)])
def test_a_turn_of_the_loop_has_4096_to_16384_elements_where_the_rows_allow_it(shape, turns):
  """Images of 4096 elements, more, one less, 4000 in a batch of more, and no image: only the loop is a scan.

  Then 8 of 16 rows have 16384 elements; 5 of 10 have 16385, so a turn takes 2; a row has more; one of 7 rows has fewer;
  the whole image has 4096; 4 of 12 rows have 16384; one of 15 rows has 4095, so a turn takes 3;
  9 rows have 14400.
  """
  program = jax.make_jaxpr(lambda x: map_and_sum(lambda x: (x, (x,)), x))(np.ones(shape, np.float32))
  assert re.findall(r"\blength=(\d+)", str(program)) == ([str(turns)] if turns else [])
