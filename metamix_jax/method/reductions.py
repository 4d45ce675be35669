"""Sums over all elements of an activation beside an elementwise result, as the backward pass of the mixture needs them."""

from collections.abc import Callable
import math

import jax
from jax import Array
import jax.numpy as jnp

# Elements of one image below which a loop over images costs more than it saves.
MIN_IMAGE_ELEMENTS = 4096


def map_and_sum(function: Callable, *arrays: Array) -> tuple[Array, tuple[Array, ...]]:
  """An elementwise result, and the sums over all elements of elementwise terms.

  XLA's CPU backend sums to a scalar element by element, unvectorised, and drags what it fuses with the sum along: ten
  times slower than image by image into one accumulator for each element of an image, which stays in the cache. Other
  backends get the plain sums.

  Args:
    function: arrays of one shape -> (result, tuple of terms), elementwise.
    *arrays: of one shape, the images along the first axis.

  Returns:
    The result, and each term's sum, scalar float32.
  """
  def at_once(*arrays):
    result, terms = function(*arrays)
    return result, tuple(jnp.sum(term, dtype=jnp.float32) for term in terms)

  def image_by_image(*arrays):
    def add_image(totals, images):
      result, terms = function(*images)
      return tuple(total + term for total, term in zip(totals, terms)), result

    terms = jax.eval_shape(lambda *images: function(*images)[1], *(array[0] for array in arrays))
    start = tuple(jnp.zeros(term.shape, jnp.float32) for term in terms)
    totals, result = jax.lax.scan(add_image, start, arrays)
    return result, tuple(jnp.sum(total) for total in totals)

  shape = arrays[0].shape
  if len(shape) < 3 or math.prod(shape[1:]) < MIN_IMAGE_ELEMENTS:
    return at_once(*arrays)
  return jax.lax.platform_dependent(*arrays, cpu=image_by_image, default=at_once)
