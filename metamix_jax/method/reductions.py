"""Elementwise maps that also return sums over all elements, as the quantisers' backward passes need them."""

from collections.abc import Callable
import math
import operator

import jax
from jax import Array
import jax.numpy as jnp

# With fewer elements in a turn, a loop costs more than it saves.
MIN_BLOCK_ELEMENTS = 4096
# With more elements, what is computed from them leaves the cache. There are more only where rows do not divide well.
MAX_BLOCK_ELEMENTS = 16384


def map_and_sum(function: Callable, *arrays: Array) -> tuple[Array, tuple[Array, ...]]:
  """Applies an elementwise function and sums its terms over all elements.

  XLA's CPU backend computes result and terms one after the other, each as a whole array in memory. On CPUs this
  function therefore loops over a few rows of an image at a time and adds them to an accumulator of their shape, which
  stays in the cache. Other backends get plain sums.

  Args:
    function: maps arrays of one shape to (result, tuple of terms), elementwise.
    *arrays: arrays of one shape, images along the first axis.

  Returns:
    The result, shaped like the arrays, and the sum of each term, scalar float32.
  """
  def at_once(*arrays):
    result, terms = function(*arrays)
    return result, tuple(jnp.sum(term, dtype=jnp.float32) for term in terms)

  def block_by_block(*arrays):
    def add_block(totals, blocks):
      result, terms = function(*blocks)
      return jax.tree.map(operator.add, totals, terms), result

    blocks = [values.reshape(-1, *block) for values in arrays]
    _, terms = jax.eval_shape(function, *blocks)
    start = tuple(jnp.zeros(block, jnp.float32) for _ in terms)
    totals, result = jax.lax.scan(add_block, start, blocks)
    return result.reshape(shape), tuple(jnp.sum(total) for total in totals)

  first, *_ = arrays
  shape = first.shape
  if len(shape) < 3 or math.prod(shape[1:]) < MIN_BLOCK_ELEMENTS:
    return at_once(*arrays)
  _, rows, *row = shape
  divisors = [n for n in range(1, rows + 1) if rows % n == 0 and n * math.prod(row) >= MIN_BLOCK_ELEMENTS]
  fitting = [n for n in divisors if n * math.prod(row) <= MAX_BLOCK_ELEMENTS]
  block = (max(fitting, default=divisors[0]), *row)
  return jax.lax.platform_dependent(*arrays, cpu=block_by_block, default=at_once)
