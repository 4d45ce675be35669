"""Convolution whose gradients are written in the form that XLA's CPU backend computes fast everywhere.

That backend hands a convolution to its library only as [N, H, W, C] by [k, k, C, features], and brings gradients to
that form outside of loops alone (jax-ml/jax#12868). In the scan of the bit-meta step, the kernel gradient of a
56 x 56 x 64 convolution took 4.3 s instead of 39 ms. A 1x1 convolution is a product of two matrices here; depthwise
convolutions are shifted multiply-adds where depthwise.py wins, and grouped convolutions of XLA's elsewhere.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
from jax import Array, lax

from metamix_jax.nn.depthwise import shifted_depthwise

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# Of depthwise convolutions: by shifted multiply-adds, XLA's own, or the former on CPUs alone.
DEPTHWISE_IMPLEMENTATIONS = AUTO, SHIFTED, NATIVE = ("auto", "shifted", "native")
NUMBER_OR_PAIR = int | Sequence[int]
PADDING = str | int | Sequence[int | Sequence[int]] | None


class Window(NamedTuple):
  """How a kernel moves over its input, rows first; a static part of a program.

  Attributes:
    strides: between two positions of the kernel.
    padding: zeros (before, after) the rows and the columns.
    dilation: distance between two taps of the kernel.
  """

  strides: tuple[int, int]
  padding: tuple[tuple[int, int], tuple[int, int]]
  dilation: tuple[int, int]


def pair(name: str, value: NUMBER_OR_PAIR, least: int = 1) -> tuple[int, int]:
  """Returns an integer twice, or a pair of integers as it is.

  Args:
    name: of the value, for the error.
    value: the same for both, or one for each.
    least: lowest integer that is allowed.

  Raises:
    ValueError: the value is anything else.
  """
  values = (value, value) if isinstance(value, int) else value
  if isinstance(values, Sequence) and len(values) == 2:
    first, second = values
    if all(isinstance(v, int) and not isinstance(v, bool) and v >= least for v in (first, second)):
      return first, second
  raise ValueError(f"{name} is {value!r}; allowed are an integer, {least} or more, and a pair of them.")


def window_of(
    size: tuple[int, int], kernel_size: tuple[int, int], strides: NUMBER_OR_PAIR = 1, padding: PADDING = None,
    kernel_dilation: NUMBER_OR_PAIR = 1,
) -> Window:
  """Returns the window that the fields of a convolution, named as in flax.linen.Conv, give on an input.

  Args:
    size: (H, W) of the input.
    kernel_size: (k_h, k_w).
    strides: between two positions of the kernel.
    padding: None: k // 2 zeros on each side of an odd kernel, times its dilation (torchvision's); or "SAME", "VALID",
      an integer, or two of them or of (before, after), for rows and columns.
    kernel_dilation: distance between two taps of the kernel.

  Raises:
    ValueError: a value that is not allowed, an even kernel without padding, or a kernel larger than the padded input.
  """
  steps, dilation = pair("strides", strides), pair("kernel_dilation", kernel_dilation)
  reach = [distance * (taps - 1) + 1 for distance, taps in zip(dilation, kernel_size, strict=True)]
  if padding is None:
    if not all(taps % 2 for taps in kernel_size):
      raise ValueError(
          f"kernel_size is {kernel_size} and padding is None, which is k // 2 on each side of odd sizes; allowed for "
          "even sizes is a padding: 'SAME', 'VALID', an integer or a pair.")
    rows, columns = ((length // 2, length // 2) for length in reach)
  elif padding in ("SAME", "VALID"):
    rows, columns = ((int(low), int(high)) for low, high in lax.padtype_to_pads(size, reach, steps, padding))
  elif isinstance(padding, int):
    rows = columns = pair("padding", padding, 0)
  elif isinstance(padding, Sequence) and not isinstance(padding, str) and len(padding) == 2:
    rows, columns = (pair("padding", side, 0) for side in padding)
  else:
    raise ValueError(f"padding is {padding!r}; allowed are 'SAME', 'VALID', an integer, a pair and None.")
  if any(whole + sum(side) < length for whole, side, length in zip(size, (rows, columns), reach, strict=True)):
    raise ValueError(
        f"kernel_size is {kernel_size}, which does not fit into an input of {size} with padding {(rows, columns)}.")
  return Window(steps, (rows, columns), dilation)


def convolve(x: Array, kernel: Array, window: Window, feature_group_count: int = 1, depthwise: str = AUTO) -> Array:
  """Convolves by the implementation that is fast for these shapes.

  Args:
    x: [N, H, W, C] floating point.
    kernel: [k_h, k_w, C / feature_group_count, features].
    window: of `window_of`.
    feature_group_count: groups of channels; with more than one, the gradients are XLA's own unless the convolution is
      depthwise.
    depthwise: implementation where each channel has one feature and a square, odd kernel without dilation, padded by
      k // 2: "shifted", "native", or "auto": shifted on CPU, where it was measured to win; native elsewhere (not
      measured).

  Returns:
    [N, H', W', features]; H' = (H + padding - dilation * (k_h - 1) - 1) // stride + 1, W' likewise.

  Raises:
    ValueError: an unknown implementation of depthwise convolutions.
  """
  if depthwise not in DEPTHWISE_IMPLEMENTATIONS:
    raise ValueError(f"depthwise is {depthwise!r}; allowed are {', '.join(DEPTHWISE_IMPLEMENTATIONS)}.")
  height, width, _, features = kernel.shape
  stride, half = window.strides[0], height // 2
  simple = window == ((stride,) * 2, ((half, half),) * 2, (1, 1)) and height == width and height % 2 == 1
  if simple and feature_group_count == x.shape[-1] == features:
    shifted = depthwise == SHIFTED or (depthwise == AUTO and jax.default_backend() == "cpu")
    return shifted_depthwise(x, kernel, stride) if shifted else _forward(x, kernel, window, feature_group_count)
  if simple and (height, stride, feature_group_count) == (1, 1, 1):
    # As a product of two matrices: XLA:CPU does not turn the kernel gradient of a 1x1 convolution into one by itself,
    # and writes a transposed copy of the output's gradient for that of a product of more than two dimensions.
    return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], features)
  return _convolve(x, kernel, window) if feature_group_count == 1 else _forward(x, kernel, window, feature_group_count)


def _forward(x, kernel, window, feature_group_count=1):
  return lax.conv_general_dilated(
      x, kernel, window.strides, window.padding, rhs_dilation=window.dilation, dimension_numbers=DIMENSIONS,
      feature_group_count=feature_group_count)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x, kernel, window):
  return _forward(x, kernel, window)


def _convolve_forward(x, kernel, window):
  return _forward(x, kernel, window), (x, kernel)


def _convolve_backward(window, saved, dy):
  def written_out(x, kernel, dy):
    return input_gradient(dy, kernel, window, x.shape[1:3]), kernel_gradient(x, dy, window, kernel.shape[:2])

  def automatic(x, kernel, dy):
    return jax.vjp(lambda x, kernel: _forward(x, kernel, window), x, kernel)[1](dy)

  return lax.platform_dependent(*saved, dy, cpu=written_out, default=automatic)


_convolve.defvjp(_convolve_forward, _convolve_backward)


def input_gradient(dy: Array, kernel: Array, window: Window, size: tuple[int, int]) -> Array:
  """Gradient by x, [N, H, W, C]: dy with stride - 1 zeros between its elements, convolved with the turned kernel.

  Args:
    dy: [N, H', W', features].
    kernel: [k_h, k_w, C, features].
    window: of the convolution.
    size: (H, W) of x.
  """
  # The last element of x that a window starts at lies (out - 1) * stride behind the first.
  axes = zip(kernel.shape[:2], size, dy.shape[1:3], *window, strict=True)
  padding = [
      (dilation * (taps - 1) - before, whole - 1 - (out - 1) * stride + before)
      for taps, whole, out, stride, (before, _), dilation in axes]
  return lax.conv_general_dilated(
      dy, kernel[::-1, ::-1].swapaxes(2, 3), (1, 1), padding, lhs_dilation=window.strides, rhs_dilation=window.dilation,
      dimension_numbers=DIMENSIONS)


def kernel_gradient(x: Array, dy: Array, window: Window, size: tuple[int, int]) -> Array:
  """Gradient by the kernel, [k_h, k_w, C, features]: x convolved with dy, images in the place of channels.

  Args:
    x: [N, H, W, C].
    dy: [N, H', W', features].
    window: of the convolution.
    size: (k_h, k_w).
  """
  axes = zip(size, x.shape[1:3], dy.shape[1:3], *window, strict=True)
  padding = [
      (before, (out - 1) * stride + dilation * (taps - 1) + 1 - whole - before)
      for taps, whole, out, stride, (before, _), dilation in axes]
  gradient = lax.conv_general_dilated(
      x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), window.dilation, padding, rhs_dilation=window.strides,
      dimension_numbers=DIMENSIONS)
  return gradient.transpose(1, 2, 0, 3)
