"""A network as the steps use it: its module, the facts of its layers, and how images enter it."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, TypeAlias

from flax import linen as nn
from jax import Array
import jax.numpy as jnp

from metamix_jax.method.bops import LayerCost

Tree: TypeAlias = Any


@dataclasses.dataclass(frozen=True)
class Network:
  """The static part of a network; hashable.

  Attributes:
    module: the Flax module, called as module(images, train=...).
    layers: its quantised layers in order (nn.tracing.trace_layers).
    mean: of each image channel on the scale 0..1.
    std: of each image channel on the scale 0..1.
    step_size_floor: lowest value of any step size (M4: never <= 0).
    dtype: what activations are computed in, "float32" or "bfloat16"; parameters, step sizes, statistics of batch norm,
      quantisers, logits and losses are float32 in any case.
  """

  module: nn.Module
  layers: tuple[LayerCost, ...]
  mean: tuple[float, ...]
  std: tuple[float, ...]
  step_size_floor: float
  dtype: str = "float32"

  @property
  def searched_layers(self) -> tuple[LayerCost, ...]:
    """The layers whose bits are searched."""
    return tuple(layer for layer in self.layers if layer.searched)

  def normalize(self, images: Array) -> Array:
    """Normalises uint8 [N, H, W, C] to float32 [N, H, W, C]: (x / 255 - mean) / std."""
    return (images.astype(jnp.float32) / 255 - jnp.array(self.mean)) / jnp.array(self.std)

  def apply(
      self, variables: Mapping[str, Tree], images: Array, *, train: bool, mutable: Sequence[str] = (),
      random_key: Array | None = None, dtype: str | None = None,
  ) -> tuple[Array, Mapping[str, Tree]]:
    """Runs the network on a batch: the one place where images are normalised and cast.

    Args:
      variables: collections of the module (see nn/layers.py).
      images: uint8 [N, H, W, C].
      train: True: batch norm normalises by the batch, dropout and other random layers are active.
      mutable: collections that the pass writes.
      random_key: of this pass (nn.batch_random.batch_key), for random numbers of every name; not needed where `train`
        is False.
      dtype: of the activations; None: `self.dtype`.

    Returns:
      Logits [N, classes], float32, and the collections that were written.
    """
    logits, written = self.module.apply(
        variables, self.normalize(images).astype(dtype or self.dtype), train=train, mutable=list(mutable),
        rngs=None if random_key is None else {"params": random_key})  # Flax falls back on it for any other name.
    return logits.astype(jnp.float32), written
