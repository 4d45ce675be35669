"""Networks that were trained for a minute to tell images apart: what makes predictions worth comparing.

The logits of a random network lie so close together that one code at a tie decides between two classes.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metamix_jax.method.precision import assigned_precision
from metamix_jax.nn.batch_random import GENERATOR, batch_key
from tests.helpers.exported_networks import random_network

NUM_KINDS = 10
LEARNING_RATE = 3e-3
STEP_SIZE_FLOOR = 1e-6
IMAGES_OF_STATISTICS = 200


def striped_images(rng, count, image_shape):
  """Makes images of ten kinds, each with stripes of its own direction, width and colour, at any phase, under noise.

  Returns:
    Images, uint8 [count, H, W, C]; kinds [count], each in turn.
  """
  height, width, channels = image_shape
  kinds = np.arange(count) % NUM_KINDS
  rows, columns = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
  angle, stripes = np.pi * kinds / NUM_KINDS, 2 + 3 * (kinds % 4)
  phase = (rows * np.sin(angle)[:, None, None] + columns * np.cos(angle)[:, None, None]) * stripes[:, None, None]
  brightness = np.sin(2 * np.pi * (phase + rng.random((count, 1, 1))))
  colours = 40 + 60 * np.stack([(kinds + channel) % 3 for channel in range(channels)], -1) / 2
  images = 128 + brightness[..., None] * colours[:, None, None] + rng.normal(0, 15, (count, *image_shape))
  return np.clip(np.round(images), 0, 255).astype(np.uint8), kinds


def fitted_network(name, image_shape, rng, steps, batch_size, bits=None, num_classes=1000):
  """Trains a network of random weights, quantised throughout, as stage B does.

  Batch norm ends with statistics of new images. Its first scale stays 0, as that of a channel that training gave up.

  Args:
    name: as config.network.name.
    image_shape: (H, W, C).
    rng: of the images.
    steps: of training.
    batch_size: images of a step.
    bits: of every searched layer; None: drawn from the candidates.
    num_classes: outputs, of which ten are kinds.
  """
  start = random_network(
      name, {}, image_shape, bits=bits, num_classes=num_classes, images=striped_images(rng, 20, image_shape)[0])
  network, precision = start.network, assigned_precision(start.network.layers, start.bits)
  optimizer = optax.adam(LEARNING_RATE)

  def loss(trained, batch_stats, images, kinds, key):
    variables = trained | {"batch_stats": batch_stats, "precision": precision}
    logits, written = network.apply(variables, images, train=True, mutable=["batch_stats"], random_key=key)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, kinds)), written["batch_stats"]

  @jax.jit
  def step(trained, batch_stats, state, images, kinds, key):
    gradients, batch_stats = jax.grad(loss, has_aux=True)(trained, batch_stats, images, kinds, key)
    updates, state = optimizer.update(gradients, state, trained)
    trained = optax.apply_updates(trained, updates)
    step_sizes = jax.tree.map(lambda leaf: jnp.maximum(leaf, STEP_SIZE_FLOOR), trained["step_sizes"])
    return {"params": _with_zero_scales(trained["params"]), "step_sizes": step_sizes}, batch_stats, state

  trained = {name: start.variables[name] for name in ("params", "step_sizes")}
  batch_stats, state = start.variables["batch_stats"], optimizer.init(trained)
  for number in range(steps):
    images, kinds = striped_images(rng, batch_size, image_shape)
    key = batch_key(jax.random.key(number, impl=GENERATOR), batch_size, 0)
    trained, batch_stats, state = step(trained, batch_stats, state, images, kinds, key)

  @jax.jit
  def statistics(images):
    variables = trained | {"batch_stats": batch_stats, "precision": precision}
    return network.apply(variables, images, train=True, mutable=["batch_moments"], random_key=key)[1]["batch_moments"]

  batch_stats = statistics(striped_images(rng, IMAGES_OF_STATISTICS, image_shape)[0])
  return dataclasses.replace(start, variables=jax.tree.map(np.array, trained | {"batch_stats": batch_stats}))


def _with_zero_scales(params):
  return jax.tree_util.tree_map_with_path(
      lambda path, leaf: leaf.at[0].set(0) if path[-1].key == "scale" else leaf, params)
