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

from collections.abc import Sequence

from flax import linen as nn
import jax
from jax import Array
import jax.numpy as jnp

from metamix_jax.method.quantizers import (
  CodeRange,
  code_range,
  initial_step_size,
  input_shift,
  lowest_initial_step_size,
  step_size_gradient_scale,
)
from metamix_jax.nn.convolution import convolve
from metamix_jax.nn.scheme import QuantizationScheme

# He initialisation by fan-out, as torchvision starts its convolutions.
conv_kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


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
    axis_name = self.scheme.placement.axis_name
    return 1 if axis_name is None else jax.lax.psum(1, axis_name)


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
    y = convolve(self.quantize_input(x), kernel, self.stride, self.groups, self.scheme.placement.depthwise)
    if self.use_bias:
      y += self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(y.dtype)
    return y


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
