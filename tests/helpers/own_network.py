"""A network as a user writes one; tests/test_own_network.py trains it, the README shows it."""

from flax import linen as nn
import jax.numpy as jnp

from metamix_jax import QuantConv, QuantDense, QuantizationScheme


class PlainNetwork(nn.Module):
  num_classes: int
  scheme: QuantizationScheme
  features: tuple[int, ...] = (16, 32)

  @nn.compact
  def __call__(self, images, *, train):
    x = QuantConv(self.scheme.fixed, "signed", self.features[0], (3, 3), name="stem")(images)
    for index, features in enumerate(self.features):
      x = nn.relu(self.scheme.batch_norm(momentum=0.9, epsilon=1e-5)(x, train=train))
      x = QuantConv(self.scheme, "unsigned", features, (3, 3), strides=2, name=f"conv_{index}")(x)
    x = nn.relu(jnp.mean(x, axis=(1, 2)))
    return QuantDense(self.scheme.fixed, "unsigned", self.num_classes, name="classifier")(x)
