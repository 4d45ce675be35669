"""A network of dense layers alone: its programs compile in a second, and its layers can be followed by hand."""

from flax import linen as nn
import jax
import numpy as np
import optax

from metamix_jax import QuantDense, QuantizationScheme
from metamix_jax.models.network import Network
from metamix_jax.nn.activations import hard_swish
from metamix_jax.nn.scheme import Placement
from metamix_jax.nn.tracing import trace_layers
from metamix_jax.training.state import create_meta_state
from metamix_jax.training.steps import AXIS

SHAPE, CLASSES, BATCH = (2, 3, 1), 4, 8


class DenseNetwork(nn.Module):
  num_classes: int
  scheme: QuantizationScheme
  features: int = 8
  dropout_rate: float = 0.0

  @nn.compact
  def __call__(self, images, *, train):
    x = QuantDense(self.scheme.fixed, "signed", self.features, name="stem")(images.reshape(len(images), -1))
    x = hard_swish(self.scheme.batch_norm(momentum=0.9, epsilon=1e-5, name="norm")(x, train=train))
    x = nn.relu(QuantDense(self.scheme, "hard_swish", self.features, name="middle")(x))
    x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
    x = QuantDense(self.scheme, "unsigned", self.features, name="last")(x)
    return QuantDense(self.scheme.fixed, "unsigned", self.num_classes, name="classifier")(nn.relu(x))


def dense_network(candidate_bits=(2, 4, 8), **options) -> Network:
  """Traces the network on images of six pixels."""
  module = DenseNetwork(CLASSES, QuantizationScheme(candidate_bits, 4, 8, Placement(AXIS)), **options)
  return Network(module, trace_layers(module, SHAPE), (0.5,), (0.25,), 1e-6)


def dense_state(network, optimizer=None, seed=0):
  """A meta-state on the host; kernels of order 1, so that logits are not all nearly zero, and step sizes of order 1/4.
  """
  optimizer = optimizer or optax.sgd(1.0)
  meta = create_meta_state(network, optimizer, SHAPE, seed)
  rng = np.random.default_rng(seed)
  draw = lambda leaf: (rng.normal(0, 0.5, leaf.shape)).astype(np.float32)
  meta = meta.replace(weights=jax.tree.map(draw, meta.weights))
  magnitudes = {layer.name: np.float32(0.25 + 0.25 * index) for index, layer in enumerate(network.layers)}
  return jax.device_get(meta.with_activation_step_sizes(magnitudes).with_optimizer(optimizer))


def dense_batch(seed=0):
  """A batch of eight images with labels, soft targets and a mask that leaves two images out."""
  rng = np.random.default_rng(seed)
  return {
      "image": rng.integers(0, 256, (BATCH, *SHAPE), dtype=np.uint8),
      "label": rng.integers(0, CLASSES, BATCH).astype(np.int32),
      "target": rng.dirichlet(np.ones(CLASSES), BATCH).astype(np.float32),
      "mask": np.array([1, 1, 0, 1, 1, 1, 0, 1], np.float32)}
