"""Networks of a user's own around one operation: those that can be exported, and some that cannot."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from metamix_jax import QuantConv, QuantDense, QuantizationScheme
from metamix_jax.nn.activations import hard_swish
from tests.helpers.exported_networks import random_network

SHAPE = (6, 8, 2)


class Glue(nn.Module):
  """Puts a function between two layers."""

  num_classes: int
  scheme: QuantizationScheme
  glue: str = "relu"

  @nn.compact
  def __call__(self, images, *, train):
    x = QuantConv(self.scheme.fixed, "signed", 4, (3, 3), name="stem")(images)
    x = self.scheme.batch_norm(momentum=0.9, epsilon=1e-5, name="norm")(x, train=train)
    x = QuantConv(self.scheme, "signed", 4, (1, 1), use_bias=True, name="middle")(GLUE[self.glue](x))
    return QuantDense(self.scheme.fixed, "signed", self.num_classes, name="classifier")(x.reshape(x.shape[0], -1))


GLUE = {
    "relu": nn.relu,
    "relu6": nn.relu6,
    "hard_swish": hard_swish,
    "hard_sigmoid": nn.hard_sigmoid,
    "leaky_relu": nn.leaky_relu,
    "gate": lambda x: x * nn.hard_sigmoid(jnp.mean(x, (1, 2), keepdims=True)) + 0.375,
    "constants": lambda x: (x * jnp.array([1.5, 2.0, 0.3, -1.0]) * 3.0 + 0.7 + 0.9 - x) / 7.0,
    "max_pool": lambda x: nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))),
    "avg_pool": lambda x: nn.avg_pool(x, (3, 2), (2, 1), ((1, 1), (0, 1))),
    "pad": lambda x: jnp.pad(x, ((0, 0), (1, 0), (0, 2), (0, 0)), constant_values=0.5),
    "slice": lambda x: x[:, 1:, ::2],
    "split": lambda x: jnp.concatenate([x[..., 2:], *jnp.split(x[..., :2], 2, axis=-1)], -1),
    "reshape": lambda x: nn.relu(x.reshape(x.shape[0], 3, 16, 4)),
    "transpose": lambda x: x.transpose(0, 2, 1, 3),
    "channels": lambda x: jnp.max(jnp.abs(x), -1, keepdims=True) - jnp.sum(x, -1, keepdims=True) + jnp.square(-x),
    "select": lambda x: jnp.where(x > jnp.mean(x, (1, 2), keepdims=True), jnp.clip(x, -0.5, 1), jnp.zeros_like(x)),
    "broadcast": lambda x: jnp.concatenate([x, jnp.broadcast_to(jnp.mean(x, 1, keepdims=True), x.shape)], 1),
    "again": lambda x: jax.checkpoint(nn.relu)(x) + jax.jit(nn.relu6)(x),
}


class Perceptron(nn.Module):
  """Dense layers alone, one of them over [N, H, W, C]."""

  num_classes: int
  scheme: QuantizationScheme

  @nn.compact
  def __call__(self, images, *, train):
    x = nn.relu(QuantDense(self.scheme.fixed, "signed", 8, name="stem")(images))
    x = nn.relu(QuantDense(self.scheme, "unsigned", 16, name="hidden")(x.reshape(x.shape[0], -1)))
    x = self.scheme.batch_norm(momentum=0.9, epsilon=1e-5)(
        QuantDense(self.scheme, "unsigned", 16, name="normalised")(x), train=train)
    return QuantDense(self.scheme.fixed, "unsigned", self.num_classes, name="classifier")(nn.relu(x))


def glue_network(glue, bits=8):
  """Makes a random network with one of GLUE, or "perceptron"."""
  if glue == "perceptron":
    return random_network("tests.helpers.glue_networks:Perceptron", {}, SHAPE, bits=bits)
  return random_network("tests.helpers.glue_networks:Glue", {"glue": glue}, SHAPE, bits=bits)


class Refused(nn.Module):
  """Does something that cannot be exported."""

  num_classes: int
  scheme: QuantizationScheme
  how: str = ""

  @nn.compact
  def __call__(self, images, *, train):
    x = QuantConv(self.scheme, "signed", 4, (3, 3), name="conv")(images)
    if self.how == "norm":
      return QuantDense(self.scheme, "signed", self.num_classes, name="classifier")(jnp.mean(
          self.scheme.batch_norm(0.9, 1e-5, "late_norm")(nn.relu(x), train=train), (1, 2)))
    x = {"sigmoid": nn.sigmoid, "batch": lambda x: x - jnp.mean(x, 0), "flip": lambda x: x[::-1],
         "merge": lambda x: x.reshape(1, -1, 4)}.get(self.how, nn.relu)(x)
    if self.how == "dense":
      return nn.Dense(self.num_classes)(x.reshape(x.shape[0], -1))
    if self.how == "subclass":
      return OwnLayer(self.scheme, "unsigned", self.num_classes, name="own")(jnp.mean(x, (1, 2)))
    return QuantDense(self.scheme, "signed", self.num_classes, name="classifier")(x.reshape(images.shape[0], -1))


class OwnLayer(QuantDense):
  """A layer class of the user's own."""
