"""QuantConv and QuantDense: parameters plus the quantisers, as Flax Linen modules.

What a layer does is decided by the variables it is given, never by a flag:

  collection    leaf            shape   effect
  params        kernel, bias            as in flax.linen
  step_sizes    activation      [B]     one step size for each candidate bit-width (M4)
  step_sizes    weight          [C]     present: the kernel is quantised (stage B of M14)
  step_sizes    weight          [W, C]  likewise, one row for each candidate where the bits of kernels are searched
  precision     candidate       []      int32: the input is quantised with this candidate (M1)
  precision     probabilities   [B]     the input becomes the mixture of all candidates (M6)
  precision     kernel_candidate      []   int32: the kernel is quantised with this candidate
  precision     kernel_probabilities  [W]  the kernel becomes the mixture of all candidates
  calibration   mean_magnitude  []      written when the collection is mutable: mean|x| (M4)
  calibration   minimum         []      written with it: the lowest value of x

Without an entry in `precision` the input stays in full precision, and so does the kernel of a layer that has no weight
step sizes in stage B (config.quantization.layer_bits). All of them are arrays, so one compiled
program serves every assignment of bits.
"""

from collections.abc import Sequence
import dataclasses
import math

from flax import linen as nn
import jax
from jax import Array
import jax.numpy as jnp

from metamix_jax.errors import UserError
from metamix_jax.method.quantizers import (
  CodeRange,
  code_range,
  initial_step_size,
  input_shift,
  lowest_initial_step_size,
  step_size_gradient_scale,
)
from metamix_jax.nn.convolution import NUMBER_OR_PAIR, PADDING, convolve, pair, window_of
from metamix_jax.nn.scheme import QuantizationScheme

# He initialisation by fan-out, as torchvision starts its convolutions.
conv_kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class QuantLayer(nn.Module):
  """What quantised layers share; not a layer by itself.

  A layer of your own has a parameter `kernel` [..., output channels]; its __call__ takes its input first, passes that
  through `quantize_input` once and the kernel through `quantize_kernel`; its `macs` say what it costs.

  Attributes:
    scheme: how the layer is quantised, before what `scheme.layer_bits` says of its name.
    input_range: what it reads (M3): "unsigned", "signed" or "hard_swish".
  """

  scheme: QuantizationScheme
  input_range: str

  @nn.nowrap
  def macs(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int:
    """Multiply-accumulate operations of one call (M8 counts them for one image).

    Args:
      input_shape: of the layer's input, batch axis included.
      output_shape: of its output.

    Raises:
      NotImplementedError: a subclass without a cost of its own.
    """
    raise NotImplementedError(f"{type(self).__name__} has no method macs(input_shape, output_shape)")

  def quantize_input(self, x: Array) -> Array:
    """The layer's input as its convolution sees it: full precision, one bit-width (M1) or a mixture (M6)."""
    if self.is_mutable_collection("calibration"):
      self.put_variable("calibration", "mean_magnitude", jnp.mean(jnp.abs(x), dtype=jnp.float32))
      self.put_variable("calibration", "minimum", jnp.min(x).astype(jnp.float32))
    if not self.has_variable("precision", "candidate") and not self.has_variable("precision", "probabilities"):
      return x
    step_sizes = self.get_variable("step_sizes", "activation")
    codes = code_range(self.scheme_here().candidate_bits, self.input_range)
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
    """The kernel [..., C], on the grid of its output channels where it has weight step sizes (M1).

    Where the bits of kernels are searched, it is one of the candidates, or the mixture that M6 has for inputs [A].
    """
    if not self.has_variable("step_sizes", "weight"):
      return kernel
    scheme, step_sizes = self.scheme_here(), self.get_variable("step_sizes", "weight")
    codes = code_range(scheme.candidate_weight_bits or scheme.weight_bits, "signed")
    scales = step_size_gradient_scale(kernel.size, codes.highest)
    if not scheme.candidate_weight_bits:
      return self.scheme.quantizer.fake_quantize(kernel, step_sizes, codes, scales)
    if self.has_variable("precision", "kernel_candidate"):
      candidate = self.get_variable("precision", "kernel_candidate")
      chosen = CodeRange(codes.lowest[candidate], codes.highest[candidate])
      return self.scheme.quantizer.fake_quantize(kernel, step_sizes[candidate], chosen, scales[candidate])
    if not self.has_variable("precision", "kernel_probabilities"):
      return kernel
    probabilities = self.get_variable("precision", "kernel_probabilities")
    # Each output channel is an input with step sizes of its own.
    mix = jax.vmap(self.scheme.quantizer.mix_bit_widths, in_axes=(-1, -1, None, None, None), out_axes=-1)
    return mix(kernel, step_sizes, probabilities, codes, scales)

  @nn.nowrap
  def scheme_here(self) -> QuantizationScheme:
    """The scheme with what its `layer_bits` say of this layer; a kernel is searched only where the input is."""
    scheme = self.scheme.of_layer("/".join(self.path))
    pinned = isinstance(scheme.candidate_bits, tuple) and len(scheme.candidate_bits) == 1
    return dataclasses.replace(scheme, candidate_weight_bits=()) if pinned else scheme

  def _num_replicas(self) -> int:
    axis_name = self.scheme.placement.axis_name
    return 1 if axis_name is None else jax.lax.psum(1, axis_name)


class QuantConv(QuantLayer):
  """Convolution of a quantised input [N, H, W, C]; fields are named as in flax.linen.Conv.

  Attributes:
    features: output channels.
    kernel_size: (k_h, k_w), or one integer for both.
    strides: for rows and columns, or one integer for both.
    padding: None: k // 2 zeros on each side of an odd kernel, times its dilation, as torchvision's networks have it; or
      "SAME", "VALID", an integer, or two of them or of (before, after), for rows and columns.
    kernel_dilation: distance between two taps of the kernel.
    feature_group_count: groups of channels; equal to the input channels for a depthwise convolution.
    use_bias: adds a bias [features].
  """

  features: int
  kernel_size: NUMBER_OR_PAIR
  strides: NUMBER_OR_PAIR = 1
  padding: PADDING = None
  kernel_dilation: NUMBER_OR_PAIR = 1
  feature_group_count: int = 1
  use_bias: bool = False

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[N, H, W, C] -> [N, H', W', features], dtype of x; H' and W' are those of convolution.convolve.

    Raises:
      UserError: a field that is not allowed, alone or for this input; the sentence names the layer.
    """
    try:
      kernel_size, window = self._window(x.shape)
    except ValueError as error:
      raise UserError(f"layer {'/'.join(self.path) or type(self).__name__}: {error}") from error
    shape = (*kernel_size, x.shape[-1] // self.feature_group_count, self.features)
    kernel = self.quantize_kernel(self.param("kernel", conv_kernel_init, shape, jnp.float32)).astype(x.dtype)
    y = convolve(self.quantize_input(x), kernel, window, self.feature_group_count, self.scheme.placement.depthwise)
    if self.use_bias:
      y += self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(y.dtype)
    return y

  @nn.nowrap
  def macs(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int:
    """out_h * out_w * out_c * in_c / groups * k_h * k_w, of each image [C]."""
    taps = math.prod(pair("kernel_size", self.kernel_size))
    return math.prod(output_shape) * (input_shape[-1] // self.feature_group_count) * taps

  @nn.nowrap
  def _window(self, shape):
    if len(shape) != 4:
      raise ValueError(f"its input has the shape {shape}; allowed is [N, H, W, C].")
    groups = self.feature_group_count
    if groups < 1 or shape[-1] % groups or self.features % groups:
      raise ValueError(
          f"feature_group_count is {groups}; allowed is what divides its {shape[-1]} channels and {self.features} "
          "features.")
    kernel_size = pair("kernel_size", self.kernel_size)
    return kernel_size, window_of(shape[1:3], kernel_size, self.strides, self.padding, self.kernel_dilation)


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

  @nn.nowrap
  def macs(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int:
    """in * out, of each position [C]."""
    return math.prod(output_shape) * input_shape[-1]


def activation_step_sizes(mean_magnitude: Array, candidate_bits: Sequence[int], input_range: str) -> Array:
  """Starting step sizes [B] of a layer's input from mean|x|, scalar (M4), within reach of what it reads."""
  start = initial_step_size(mean_magnitude, code_range(jnp.array(candidate_bits), "unsigned").highest)
  return jnp.maximum(start, lowest_initial_step_size(mean_magnitude, jnp.array(candidate_bits), input_range))


def weight_step_sizes(kernel: Array, weight_bits: int | Sequence[int]) -> Array:
  """Starting step sizes of a kernel [..., out_channels] (M4): [out_channels], or [W, out_channels] of W bit-widths."""
  mean_magnitude = jnp.mean(jnp.abs(kernel), axis=tuple(range(kernel.ndim - 1)))
  levels = code_range(weight_bits, "signed").highest
  return initial_step_size(mean_magnitude, levels[:, None] if levels.ndim else levels)
