"""M8: MACs, BOPs and average bits of a network, from static shapes.

The layers are found by tracing the network once without computing anything: every QuantConv and QuantDense
that is called is counted, in the order of the calls. A network needs to declare nothing.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math

from flax import linen as nn
import jax
import jax.numpy as jnp

from metamix_jax.layers import QuantConv, QuantLayer


@dataclasses.dataclass(frozen=True)
class LayerCost:
  """Static facts of one quantised layer, for one image.

  Attributes:
    name: path of the module, "/" between its parts.
    macs: multiply-accumulate operations of one image.
    input_elements: number of activation elements the layer reads, one image.
    candidate_bits: candidate activation bit-widths; one entry: not searched.
    weight_bits: bits of the weights.
    kind: "conv", "depthwise" or "dense".
    input_range: what the layer reads (M3): "unsigned", "signed" or "hard_swish".
  """

  name: str
  macs: int
  input_elements: int
  candidate_bits: tuple[int, ...]
  weight_bits: int
  kind: str
  input_range: str

  @property
  def searched(self) -> bool:
    """True if the layer has more than one candidate bit-width."""
    return len(self.candidate_bits) > 1


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


def gbops(layers: Sequence[LayerCost], activation_bits: Mapping[str, float | jax.Array]):
  """M8 [C]: GBOPs = sum_l MACs_l * weight_bits_l * activation_bits_l / 1e9, of one image.

  Args:
    layers: every quantised layer, searched or not.
    activation_bits: bits by layer name: numbers, or scalar arrays where a gradient is wanted.

  Returns:
    A float, or a scalar float32 array if the bits are arrays.
  """
  return sum(activation_bits[layer.name] * (layer.macs * layer.weight_bits / 1e9) for layer in layers)


def uniform_bits(layers: Sequence[LayerCost], candidate: int) -> dict[str, int]:
  """Bits by layer name with every searched layer at its candidate of this index, the others at theirs."""
  return {layer.name: layer.candidate_bits[candidate if layer.searched else 0] for layer in layers}


def attainable_range(layers: Sequence[LayerCost]) -> tuple[float, float]:
  """Lowest and highest GBOPs that the candidate bit-widths allow."""
  return gbops(layers, uniform_bits(layers, 0)), gbops(layers, uniform_bits(layers, -1))


def average_activation_bits(layers: Sequence[LayerCost], activation_bits: Mapping[str, int]) -> float:
  """Average activation bits of all quantised layers, weighted by the elements that each reads [C]."""
  total = sum(layer.input_elements for layer in layers)
  return sum(activation_bits[layer.name] * layer.input_elements for layer in layers) / total
