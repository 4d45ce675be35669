"""Random networks that tell images apart: what makes predictions of an untrained network worth comparing.

The logits of a random network lie so close together that one code at a tie decides between two classes. Here batch norm
has the statistics of the quantised network, as a run leaves them, and the classifier is the nearest class mean of the
features that the random layers make of a few images. Other images of the same classes are then classified as by a
trained network: right, and by a margin.
"""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from metamix_jax.method.precision import assigned_precision
from metamix_jax.nn.layers import weight_step_sizes
from tests.helpers.exported_networks import random_network

NUM_KINDS = 10


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


def fitted_network(name, image_shape, images, kinds, bits=None, num_classes=1000):
  """Makes a random network whose classifier tells kinds of images apart.

  Args:
    name: as config.network.name.
    image_shape: (H, W, C).
    images: uint8 [N, H, W, C].
    kinds: of the images [N], below num_classes.
    bits: of every searched layer; None: drawn from the candidates.
    num_classes: outputs; those that are no kind are the nearest to means that no image has.
  """
  network = random_network(name, {}, image_shape, bits=bits, num_classes=num_classes, images=images)
  variables, classifier = dict(network.variables), network.network.layers[-1].name

  @jax.jit
  def evaluate(variables, images):
    features = []

    def record(call, args, kwargs, context):
      if "/".join(context.module.path) == classifier and context.method_name == "__call__":
        features.append(args[0])
      return call(*args, **kwargs)

    with nn.intercept_methods(record):
      _, written = network.network.apply(variables, images, train=True, mutable=["batch_moments"])
    return written["batch_moments"], features[0]

  precision = assigned_precision(network.network.layers, network.bits)
  variables["batch_stats"], features = jax.tree.map(
      np.array, evaluate(variables | {"precision": precision}, images))
  means = np.stack([features[kinds == kind].mean(0) for kind in range(NUM_KINDS)])
  spread = np.mean((features - means[kinds])**2, 0)
  spread += 0.01 * spread.mean()
  others = np.random.default_rng(0).normal(means.mean(0), means.std(0), (num_classes - NUM_KINDS, means.shape[1]))
  means = np.concatenate([means, others])
  # log p(features | class) of a normal distribution with this spread, without what all classes share.
  kernel = (means / spread).T.astype(np.float32)
  bias = (-0.5 * np.sum(means**2 / spread, -1)).astype(np.float32)
  step_sizes = variables["step_sizes"][classifier] | {
      "weight": np.asarray(weight_step_sizes(jnp.asarray(kernel), network.network.layers[-1].weight_bits))}
  variables["params"] = variables["params"] | {classifier: {"kernel": kernel, "bias": bias}}
  variables["step_sizes"] = variables["step_sizes"] | {classifier: step_sizes}
  return dataclasses.replace(network, variables=variables)
