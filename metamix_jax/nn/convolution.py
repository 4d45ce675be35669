"""Convolution whose gradients are written in the form that XLA's CPU backend computes fast everywhere.

That backend hands a convolution to its library only as [N, H, W, C] by [k, k, C, features], and brings gradients to
that form outside of loops alone (jax-ml/jax#12868). In the scan of the bit-meta step, the kernel gradient of a
56 x 56 x 64 convolution took 4.3 s instead of 39 ms. A 1x1 convolution is a product of two matrices here; depthwise
convolutions are shifted multiply-adds where depthwise.py wins, and grouped convolutions of XLA's elsewhere.
"""

from functools import partial

import jax
from jax import Array, lax

from metamix_jax.nn.depthwise import shifted_depthwise

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# Of depthwise convolutions: by shifted multiply-adds, XLA's own, or the former on CPUs alone.
DEPTHWISE_IMPLEMENTATIONS = AUTO, SHIFTED, NATIVE = ("auto", "shifted", "native")


def convolve(x: Array, kernel: Array, stride: int, groups: int = 1, depthwise: str = AUTO) -> Array:
  """Convolves with padding k // 2 on each side, by the implementation that is fast for these shapes.

  Args:
    x: [N, H, W, C] floating point.
    kernel: [k_h, k_w, C / groups, features], k odd.
    stride: the same in both directions, >= 1.
    groups: of channels; with more than one, the gradients are XLA's own unless the convolution is depthwise.
    depthwise: implementation for one feature a channel and a square kernel: "shifted", "native", or "auto": shifted on
      CPU, where it was measured to win; native elsewhere (not measured).

  Returns:
    [N, (H - 1) // stride + 1, (W - 1) // stride + 1, features].

  Raises:
    ValueError: an unknown implementation of depthwise convolutions.
  """
  if depthwise not in DEPTHWISE_IMPLEMENTATIONS:
    raise ValueError(f"depthwise is {depthwise!r}; allowed are {', '.join(DEPTHWISE_IMPLEMENTATIONS)}.")
  height, width, _, features = kernel.shape
  if groups == x.shape[-1] == features and height == width:
    shifted = depthwise == SHIFTED or depthwise == AUTO and jax.default_backend() == "cpu"
    return shifted_depthwise(x, kernel, stride) if shifted else _forward(x, kernel, stride, groups)
  if (height, width, stride, groups) == (1, 1, 1, 1):
    # As a product of two matrices: XLA:CPU does not turn the kernel gradient of a 1x1 convolution into one by itself,
    # and writes a transposed copy of the output's gradient for that of a product of more than two dimensions.
    return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], features)
  return _convolve(x, kernel, stride) if groups == 1 else _forward(x, kernel, stride, groups)


def _forward(x, kernel, stride, groups=1):
  padding = [(size // 2, size // 2) for size in kernel.shape[:2]]
  return lax.conv_general_dilated(
      x, kernel, (stride, stride), padding, dimension_numbers=DIMENSIONS, feature_group_count=groups)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x, kernel, stride):
  return _forward(x, kernel, stride)


def _convolve_forward(x, kernel, stride):
  return _forward(x, kernel, stride), (x, kernel)


def _convolve_backward(stride, saved, dy):
  def written_out(x, kernel, dy):
    return input_gradient(dy, kernel, stride, x.shape[1:3]), kernel_gradient(x, dy, stride, kernel.shape[:2])

  def automatic(x, kernel, dy):
    return jax.vjp(lambda x, kernel: _forward(x, kernel, stride), x, kernel)[1](dy)

  return lax.platform_dependent(*saved, dy, cpu=written_out, default=automatic)


_convolve.defvjp(_convolve_forward, _convolve_backward)


def input_gradient(dy: Array, kernel: Array, stride: int, size: tuple[int, int]) -> Array:
  """Gradient by x, [N, H, W, C]: dy with stride - 1 zeros between its elements, convolved with the turned kernel.

  Args:
    dy: [N, H', W', features].
    kernel: [k_h, k_w, C, features].
    stride: of the convolution.
    size: (H, W) of x.
  """
  # The last element of x that a window starts at lies (out - 1) * stride behind the first.
  padding = [
      (length - 1 - length // 2, whole - 1 - (out - 1) * stride + length // 2)
      for length, whole, out in zip(kernel.shape[:2], size, dy.shape[1:3])]
  return lax.conv_general_dilated(
      dy, kernel[::-1, ::-1].swapaxes(2, 3), (1, 1), padding, lhs_dilation=(stride, stride), dimension_numbers=DIMENSIONS)


def kernel_gradient(x: Array, dy: Array, stride: int, size: tuple[int, int]) -> Array:
  """Gradient by the kernel, [k_h, k_w, C, features]: x convolved with dy, images in the place of channels.

  Args:
    x: [N, H, W, C].
    dy: [N, H', W', features].
    stride: of the convolution.
    size: (k_h, k_w).
  """
  padding = [
      (length // 2, (out - 1) * stride + length - whole - length // 2)
      for length, whole, out in zip(size, x.shape[1:3], dy.shape[1:3])]
  gradient = lax.conv_general_dilated(
      x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), (1, 1), padding, rhs_dilation=(stride, stride),
      dimension_numbers=DIMENSIONS)
  return gradient.transpose(1, 2, 0, 3)
