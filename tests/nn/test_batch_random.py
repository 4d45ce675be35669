"""Random numbers of the global batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metamix_jax.nn.batch_random import GENERATOR, batch_key

KEY = jax.random.key(3, impl=GENERATOR)
IMAGES = 8

DRAWS = {
    "mask": lambda key, num_images: jax.random.bernoulli(key, 0.5, (num_images, 2, 3)),
    "a number each": lambda key, num_images: jax.random.bits(key, (num_images,)),
    "patches": lambda key, num_images: jax.random.uniform(key, (3 * num_images, 4)),
    "of a split key": lambda key, num_images: jax.random.bits(jax.random.split(key)[1], (num_images, 5)),
    "of a key folded": lambda key, num_images: jax.random.randint(jax.random.fold_in(key, 7), (num_images,), 0, 1000),
}


def draw_in_parts(draw, replicas):
  num_images = IMAGES // replicas
  return np.concatenate([draw(batch_key(KEY, num_images, jnp.int32(r)), num_images) for r in range(replicas)])


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_the_rows_of_all_replicas_make_the_global_batch(draw):
  whole = draw_in_parts(draw, 1)
  for replicas in (2, 4):
    np.testing.assert_array_equal(draw_in_parts(draw, replicas), whole)
  assert len(np.unique(whole.reshape(len(whole), -1), axis=0)) > len(whole) / 2  # Rows differ from each other.


def test_normal_numbers_are_those_of_the_global_batch():
  """Within rounding: which elements of erf_inv XLA computes as a vector depends on the shape."""
  def normal(key, num_images):
    return jax.random.normal(key, (num_images, 5))

  for replicas in (2, 4):
    np.testing.assert_array_max_ulp(draw_in_parts(normal, replicas), draw_in_parts(normal, 1), maxulp=2)


def test_what_has_no_row_for_each_image_is_the_same_on_all_replicas():
  draws = [jax.random.bernoulli(batch_key(KEY, 4, jnp.int32(r)), 0.5, (1, 64)) for r in range(2)]
  np.testing.assert_array_equal(*draws)
  scalars = [jax.random.uniform(batch_key(KEY, 4, jnp.int32(r))) for r in range(2)]
  assert scalars[0] == scalars[1]


def test_masks_have_their_rate_and_no_repetition():
  mask = np.asarray(jax.random.bernoulli(batch_key(KEY, 500, jnp.int32(0)), 0.2, (500, 200)))
  assert abs(mask.mean() - 0.2) < 5 * np.sqrt(0.16 / mask.size)
  centred = mask - mask.mean()
  correlations = centred @ centred.T / mask.shape[1] / mask.var()  # Of all pairs of images; deviation 1 / sqrt(200).
  assert np.abs(correlations[~np.eye(500, dtype=bool)]).max() < 6 / np.sqrt(200)
