"""The quantised layers of a network and what each costs, from one forward pass without numbers."""

import math

from flax import linen as nn
import jax
import jax.numpy as jnp

from metamix_jax.method.bops import LayerCost
from metamix_jax.nn.layers import QuantConv, QuantLayer


def trace_layers(network: nn.Module, image_shape: tuple[int, int, int]) -> tuple[LayerCost, ...]:
  """The quantised layers of `network` in the order of their calls, for one image of [H, W, C].

  MACs: out_h * out_w * out_c * in_c / groups * k_h * k_w for a convolution, in * out for a dense layer [C].
  """
  layers = []

  def record(call, args, kwargs, context):
    y = call(*args, **kwargs)
    layer, x = context.module, args[0] if args else None
    if isinstance(layer, QuantLayer) and context.method_name == "__call__":
      if isinstance(layer, QuantConv):
        fan_in = x.shape[-1] // layer.groups * math.prod(layer.kernel_size)
        kind = "depthwise" if layer.groups == x.shape[-1] > 1 else "conv"
      else:
        fan_in, kind = x.shape[-1], "dense"
      layers.append(LayerCost(
          "/".join(layer.path), math.prod(y.shape[1:]) * fan_in, math.prod(x.shape[1:]),
          layer.scheme.candidate_bits, layer.scheme.weight_bits, kind, layer.input_range,
      ))
    return y

  with nn.intercept_methods(record):
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=False), image)
  return tuple(layers)
