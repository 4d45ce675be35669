"""QuantConv and QuantDense: parameters plus the quantisers, as Flax Linen modules.

What a layer does is decided by the variables it is given, never by a flag:

  collection    leaf            shape   effect
  params        kernel, bias            as in flax.linen
  step_sizes    activation      [B]     one step size for each candidate bit-width (M4)
  step_sizes    weight          [C]     present: the kernel is quantised (stage B of M14)
  precision     candidate       []      int32: the input is quantised with this candidate (M1)
  precision     probabilities   [B]     the input becomes the mixture of all candidates (M6)
  calibration   mean_magnitude  []      written when the collection is mutable: mean|x| (M4)

Without an entry in `precision` the input stays in full precision. All of them are arrays, so one compiled
program serves every assignment of bits.
"""

from collections.abc import Callable, Sequence
import dataclasses
import math
from typing import NamedTuple

from flax import linen as nn
import jax
from jax import Array
import jax.numpy as jnp

from metamix_jax.method.bit_mixture import mix_bit_widths
from metamix_jax.method.bops import LayerCost
from metamix_jax.method.quantizers import (
  CodeRange,
  code_range,
  fake_quantize,
  initial_step_size,
  input_shift,
  lowest_initial_step_size,
  step_size_gradient_scale,
)
from metamix_jax.nn.convolution import convolve
from metamix_jax.nn.depthwise import depthwise_conv

# He initialisation by fan-out, as torchvision starts its convolutions.
conv_kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Quantizer(NamedTuple):
  """The functions that quantise inputs and kernels; another quantiser takes the same arguments.

  Attributes:
    fake_quantize: one bit-width, as quantizers.fake_quantize (M1).
    mix_bit_widths: the mixture of all, as bit_mixture.mix_bit_widths (M6).
  """

  fake_quantize: Callable[..., Array]
  mix_bit_widths: Callable[..., Array]


LSQ = Quantizer(fake_quantize, mix_bit_widths)


@dataclasses.dataclass(frozen=True)
class QuantizationScheme:
  """How the layers of a network are quantised; hashable, a static part of every program.

  Attributes:
    candidate_bits: candidate activation bit-widths B, ascending; a layer with one candidate is not searched.
    weight_bits: bit-width of the kernel when it is quantised.
    fixed_bits: activation and weight bits of layers that are not searched (first and last) [C].
    axis_name: pmap axis over which a batch is split, or None.
    depthwise: implementation of depthwise convolutions, see depthwise.py.
    synchronized_batch_norm: for the batch norm of the network: see batch_norm.BatchNorm.
    quantizer: the functions that quantise.
  """

  candidate_bits: tuple[int, ...]
  weight_bits: int
  fixed_bits: int
  axis_name: str | None = None
  depthwise: str = "auto"
  synchronized_batch_norm: bool = True
  quantizer: Quantizer = LSQ

  @property
  def fixed(self) -> "QuantizationScheme":
    """The scheme of a layer that is not searched: `fixed_bits` for its activations and its weights."""
    return dataclasses.replace(self, candidate_bits=(self.fixed_bits,), weight_bits=self.fixed_bits)


class QuantLayer(nn.Module):
  """What quantised layers share; not a layer by itself."""

  scheme: QuantizationScheme
  input_range: str

  def quantize_input(self, x: Array) -> Array:
    """The layer's input as its convolution sees it: full precision, one bit-width (M1) or a mixture (M6)."""
    if self.is_mutable_collection("calibration"):
      self.put_variable("calibration", "mean_magnitude", jnp.mean(jnp.abs(x), dtype=jnp.float32))
    if not self.has_variable("precision", "candidate") and not self.has_variable("precision", "probabilities"):
      return x
    step_sizes = self.get_variable("step_sizes", "activation")
    codes = code_range(self.scheme.candidate_bits, self.input_range)
    scales = step_size_gradient_scale(x.size * self._num_replicas(), codes.highest)
    shift = input_shift(self.input_range)
    shifted = x.astype(jnp.float32) + shift if shift else x  # Added in bfloat16, the shift would round x.
    if self.has_variable("precision", "candidate"):
      candidate = self.get_variable("precision", "candidate")
      chosen = CodeRange(codes.lowest[candidate], codes.highest[candidate])
      quantized = self.scheme.quantizer.fake_quantize(shifted, step_sizes[candidate], chosen, scales[candidate])
    else:
      probabilities = self.get_variable("precision", "probabilities")
      quantized = self.scheme.quantizer.mix_bit_widths(shifted, step_sizes, probabilities, codes, scales)
    return (quantized - shift).astype(x.dtype)

  def quantize_kernel(self, kernel: Array) -> Array:
    """The kernel [..., C], on the grid of its output channels where it has weight step sizes (M1)."""
    if not self.has_variable("step_sizes", "weight"):
      return kernel
    codes = code_range(self.scheme.weight_bits, "signed")
    scale = step_size_gradient_scale(kernel.size, codes.highest)
    return self.scheme.quantizer.fake_quantize(kernel, self.get_variable("step_sizes", "weight"), codes, scale)

  def _num_replicas(self) -> int:
    return 1 if self.scheme.axis_name is None else jax.lax.psum(1, self.scheme.axis_name)


class QuantConv(QuantLayer):
  """Convolution of a quantised input [N, H, W, C] with padding k // 2 (as torchvision's networks have it).

  Attributes:
    features: output channels.
    kernel_size: (k_h, k_w), odd.
    stride: the same in both directions.
    groups: feature groups; equal to the input channels for a depthwise convolution.
    use_bias: adds a bias [features].
  """

  features: int
  kernel_size: tuple[int, int]
  stride: int = 1
  groups: int = 1
  use_bias: bool = False

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[N, H, W, C] -> [N, ceil(H / stride), ceil(W / stride), features], dtype of x."""
    height, width = self.kernel_size
    shape = (height, width, x.shape[-1] // self.groups, self.features)
    kernel = self.quantize_kernel(self.param("kernel", conv_kernel_init, shape, jnp.float32)).astype(x.dtype)
    y = self._convolve(self.quantize_input(x), kernel)
    if self.use_bias:
      y += self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(y.dtype)
    return y

  def _convolve(self, x, kernel):
    height, width = self.kernel_size
    if self.groups == x.shape[-1] == self.features and height == width:
      return depthwise_conv(x, kernel, self.stride, self.scheme.depthwise)
    if (height, width, self.stride, self.groups) == (1, 1, 1, 1):
      # As a product of two matrices: XLA:CPU does not turn the kernel gradient of a 1x1 convolution into one by itself,
      # and writes a transposed copy of the output's gradient for that of a product of more than two dimensions.
      return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], self.features)
    return convolve(x, kernel, self.stride, self.groups)


class QuantDense(QuantLayer):
  """Dense layer of a quantised input.

  Attributes:
    features: outputs.
  """

  features: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[N, in] -> [N, features], dtype of x."""
    # N(0, 0.01), torchvision's start of a classifier.
    kernel = self.param("kernel", nn.initializers.normal(0.01), (x.shape[-1], self.features), jnp.float32)
    bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
    kernel = self.quantize_kernel(kernel).astype(x.dtype)
    return self.quantize_input(x) @ kernel + bias.astype(x.dtype)


def activation_step_sizes(mean_magnitude: Array, candidate_bits: Sequence[int], input_range: str) -> Array:
  """Starting step sizes [B] of a layer's input from mean|x|, scalar (M4), within reach of what it reads."""
  start = initial_step_size(mean_magnitude, code_range(jnp.array(candidate_bits), "unsigned").highest)
  return jnp.maximum(start, lowest_initial_step_size(mean_magnitude, jnp.array(candidate_bits), input_range))


def weight_step_sizes(kernel: Array, weight_bits: int) -> Array:
  """Starting step sizes [out_channels] of a kernel [..., out_channels] (M4)."""
  mean_magnitude = jnp.mean(jnp.abs(kernel), axis=tuple(range(kernel.ndim - 1)))
  return initial_step_size(mean_magnitude, code_range(weight_bits, "signed").highest)


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
