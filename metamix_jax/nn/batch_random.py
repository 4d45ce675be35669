"""Random numbers of the global batch: each replica draws the rows of its own images, and no others.

Dropout draws one mask for all images of a pass. Under jax.pmap a pass has the images of one replica, so a plain key
gives every replica the same mask, and a key for each replica gives another mask for each number of devices. A key from
`batch_key` works for any layer that draws by jax.random: nn.Dropout, stochastic depth, additive noise.
"""

from collections.abc import Hashable
import functools

import jax
from jax import Array
from jax.extend.random import define_prng_impl
import jax.numpy as jnp

# The generator below the rows. Its numbers depend on neither jax_default_prng_impl nor vmap.
GENERATOR = "threefry2x32"
_KEY_LENGTH = 2  # uint32 words of a key of GENERATOR.


def batch_key(key: Array, num_images: int, replica: Array) -> Array:
  """Makes a key for a pass over one replica's part of a global batch.

  An array whose first axis is a multiple of the number of images, [k * N, ...], is drawn row by row: row i of replica r
  is row r * k * N + i of the global batch, whatever the number of replicas. Any other array is the same on all
  replicas, such as a mask [1, C] that all images share. With one image on each replica, every array is taken for rows.

  Args:
    key: of GENERATOR, the same on all replicas; from jax.random.key(seed, impl=GENERATOR).
    num_images: N, images of a replica.
    replica: number of the replica, an integer scalar.
  """
  data = jnp.append(jax.random.key_data(key), jnp.asarray(replica, jnp.uint32))
  return jax.random.wrap_key_data(data, impl=_implementation(num_images))


@functools.cache  # JAX compares implementations by identity.
def _implementation(num_images: int) -> Hashable:
  """Makes the implementation of keys for N images of a replica: a key of GENERATOR, and the number of the replica."""
  def key_of(data):
    return jax.random.wrap_key_data(data[:_KEY_LENGTH], impl=GENERATOR)

  def data_of(keys, data):
    replica = jnp.broadcast_to(data[_KEY_LENGTH:], (*keys.shape, 1))
    return jnp.concatenate([jax.random.key_data(keys), replica], axis=-1)

  def seed(value):
    raise NotImplementedError("a key of a batch is made by batch_key alone.")

  def split(data, shape):
    return data_of(jax.random.split(key_of(data), shape), data)

  def fold_in(data, value):
    return data_of(jax.random.fold_in(key_of(data), value), data)

  def random_bits(data, bit_width, shape):
    draw = functools.partial(jax.random.bits, dtype=f"uint{bit_width}")
    if not shape or shape[0] % num_images:
      return draw(key_of(data), shape)
    rows = data[_KEY_LENGTH] * shape[0] + jnp.arange(shape[0], dtype=jnp.uint32)
    keys = jax.vmap(lambda row: jax.random.fold_in(key_of(data), row))(rows)
    return jax.vmap(lambda key: draw(key, shape[1:]))(keys)

  return define_prng_impl(
      key_shape=(_KEY_LENGTH + 1,), seed=seed, split=split, random_bits=random_bits, fold_in=fold_in,
      name=f"batch_of_{num_images}", tag=f"b{num_images}")
