"""Networks as training leaves them, without training: random weights, statistics and step sizes that fit them."""

import dataclasses
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from metamix_jax.export import saved_network
from metamix_jax.method.bops import complete_bits
from metamix_jax.method.precision import FULL_PRECISION
from metamix_jax.models import create_network
from metamix_jax.models.network import Network
from metamix_jax.nn.layers import activation_step_sizes, weight_step_sizes
from metamix_jax.nn.scheme import QuantizationScheme
from metamix_jax.nn.tracing import trace_network

CANDIDATE_BITS, WEIGHT_BITS, FIXED_BITS = (2, 3, 4, 8), 4, 8
DIGITS_OPTIONS = dict(stem_stride=1, stem_channels=16, blocks=((1, 16, 1, 1), (4, 24, 2, 2), (4, 32, 2, 2)),
                      last_channels=128)


@dataclasses.dataclass(frozen=True)
class RandomNetwork:
  """Holds the arguments of folding.make_program."""

  network: Network
  variables: dict
  bits: dict
  image_shape: tuple[int, int, int]


def random_network(name, options, image_shape, seed=0, bits=None, num_classes=10, images=None):
  """Makes a network with sane random weights.

  Batch norms have scales around 1, some of them negative and the first 0, and the statistics of images.

  Args:
    name: as config.network.name.
    options: as config.network.options.
    image_shape: (H, W, C).
    seed: of everything.
    bits: of every searched layer; None: drawn from the candidates.
    num_classes: outputs.
    images: that statistics and step sizes fit, uint8 [N, H, W, C]; None: eight of noise.
  """
  rng = np.random.default_rng(seed)
  network, variables = _random_weights(name, options, image_shape, seed, num_classes)

  @jax.jit
  def measure(variables, images):
    _, written = network.apply(variables, images, train=True, mutable=["batch_moments", "calibration"])
    return written

  images = noise(rng, 8, image_shape) if images is None else images
  written = jax.tree.map(np.array, measure(variables | {"precision": FULL_PRECISION}, images))
  if "batch_moments" in written:
    variables["batch_stats"] = written["batch_moments"]
  step_sizes = {}
  for layer in network.layers:
    magnitude, kernel, node = written["calibration"], variables["params"], step_sizes
    for part in layer.name.split("/"):
      magnitude, kernel, node = magnitude[part], kernel[part], node.setdefault(part, {})
    node["activation"] = np.asarray(
        activation_step_sizes(magnitude["mean_magnitude"], layer.candidate_bits, layer.input_range))
    node["weight"] = np.asarray(weight_step_sizes(jnp.asarray(kernel["kernel"]), layer.weight_bits))
  searched = {layer.name: int(bits or rng.choice(layer.candidate_bits)) for layer in network.layers if layer.searched}
  return RandomNetwork(
      network, variables | {"step_sizes": step_sizes}, complete_bits(network.layers, searched), image_shape)


def unmeasured_network(name, image_shape, bits, num_classes):
  """Makes a network that never ran: weights as `random_network`, step sizes of activations and variances of 1.

  What it computes is of no use, but its files have the sizes of a trained network's, in a tenth of the time.
  """
  network, variables = _random_weights(name, {}, image_shape, 0, num_classes)
  step_sizes = {}
  for layer in network.layers:
    kernel, node = variables["params"], step_sizes
    for part in layer.name.split("/"):
      kernel, node = kernel[part], node.setdefault(part, {})
    levels = 2 ** (layer.weight_bits - 1) - 1
    node["activation"] = np.ones(len(layer.candidate_bits), np.float32)
    node["weight"] = (2 * np.abs(kernel["kernel"]).reshape(-1, kernel["kernel"].shape[-1]).mean(0)
                      / np.float32(np.sqrt(levels)))
  searched = {layer.name: bits for layer in network.layers if layer.searched}
  return RandomNetwork(
      network, variables | {"step_sizes": step_sizes}, complete_bits(network.layers, searched), image_shape)


def _random_weights(name, options, image_shape, seed, num_classes):
  """Returns the static part of a network and its collections params and batch_stats."""
  module = create_network(name, num_classes, QuantizationScheme(CANDIDATE_BITS, WEIGHT_BITS, FIXED_BITS), options)
  traced = trace_network(module, image_shape)
  channels = image_shape[-1]
  network = saved_network.without_axis(Network(module, traced.layers, (0.5,) * channels, (0.25,) * channels, 1e-6))
  return network, jax.tree_util.tree_map_with_path(
      lambda path, leaf: _random_leaf(path, leaf.shape, seed), dict(traced.variables))


def _random_leaf(path, shape, seed):
  rng = np.random.default_rng([seed, zlib.crc32(jax.tree_util.keystr(path).encode())])
  name = path[-1].key
  if name == "kernel":
    values = rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
  elif name == "var":
    values = np.ones(shape)
  elif name == "scale":
    values = rng.uniform(0.7, 1.3, shape) * rng.choice([1, 1, 1, -1], shape)
    values[0] = 0
  else:
    values = rng.normal(0, 0.3, shape)
  return values.astype(np.float32)


def digits_network(**kwargs):
  """Makes a network of the quick start's shape."""
  return random_network("mobilenet_v2", DIGITS_OPTIONS, (16, 16, 1), **kwargs)


def noise(rng, count, image_shape):
  """Makes noise images, uint8 [count, H, W, C]."""
  return rng.integers(0, 256, (count, *image_shape), dtype=np.uint8)
