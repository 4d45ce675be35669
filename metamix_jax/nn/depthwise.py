"""Depthwise convolution with its own gradients, for backends whose grouped convolution is slow.

XLA's CPU backend computes a grouped convolution channel by channel: a MobileNet step spends most of its
time there. The same sum written as k * k shifted multiply-adds is vectorised over channels; the kernel
gradient accumulates one image at a time, so that the k * k accumulators stay in cache.
"""

from functools import partial
from typing import cast

import jax
from jax import Array, lax
import jax.numpy as jnp

# Output rows that the kernel gradient adds before it writes an accumulator back.
MAX_ROWS = 14


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def shifted_depthwise(x: Array, kernel: Array, stride: int) -> Array:
  """Convolves each channel with its own kernel, with padding k // 2 on each side.

  Args:
    x: [N, H, W, C] floating point.
    kernel: [k, k, 1, C], odd k.
    stride: the same in both directions, >= 1.

  Returns:
    [N, (H - 1) // stride + 1, (W - 1) // stride + 1, C].
  """
  size, (_, height, width, channels) = kernel.shape[0], x.shape
  pad = size // 2
  out_h, out_w = (height - 1) // stride + 1, (width - 1) // stride + 1
  # Rows and columns are split into (position, phase) so that a strided window is a contiguous slice.
  rows, columns = out_h + (size - 1) // stride, out_w + (size - 1) // stride
  padded = _pad(x, (pad, rows * stride - height - pad), (pad, columns * stride - width - pad))
  padded = padded.reshape(-1, rows, stride, columns, stride, channels)
  taps = (
      padded[:, i // stride:i // stride + out_h, i % stride, j // stride:j // stride + out_w, j % stride]
      * kernel[i, j, 0]
      for i in range(size) for j in range(size)
  )
  return cast(Array, sum(taps))


def _pad(x, rows, columns):
  """Zero padding of axes -3 and -2; a negative amount crops."""
  config = ((0, 0, 0),) * (x.ndim - 3) + ((*rows, 0), (*columns, 0), (0, 0, 0))
  # Without the barrier XLA:CPU fuses the padding into every one of the k * k reads and tests each index.
  return lax.optimization_barrier(lax.pad(x, jnp.zeros((), x.dtype), config))


def _shifted_forward(x, kernel, stride):
  return shifted_depthwise(x, kernel, stride), (x, kernel)


def _shifted_backward(stride, saved, dy):
  x, kernel = saved
  return _input_gradient(dy, kernel, stride, *x.shape[1:3]), _kernel_gradient(x, dy, kernel.shape[0], stride)


def _input_gradient(dy, kernel, stride, height, width):
  """One unit-stride sum of shifts for each phase of the input rows and columns."""
  size, (images, out_h, out_w, channels) = kernel.shape[0], dy.shape
  pad = size // 2
  rows, columns = -(-height // stride), -(-width // stride)
  # Input row r of a phase reads output row (r + pad - i) / stride through kernel row i, where that divides.
  offsets = {
      (phase, i): (phase + pad - i) // stride
      for phase in range(stride) for i in range(size) if (phase + pad - i) % stride == 0
  }
  before, after = max(0, -min(offsets.values())), max(offsets.values())
  padded = _pad(dy, (before, rows + after - out_h), (before, columns + after - out_w))

  def phase_gradient(phase_row, phase_column):
    total = jnp.zeros((images, rows, columns, channels), dy.dtype)
    for i in range(size):
      for j in range(size):
        if (phase_row, i) in offsets and (phase_column, j) in offsets:
          top, left = before + offsets[phase_row, i], before + offsets[phase_column, j]
          total += padded[:, top:top + rows, left:left + columns] * kernel[i, j, 0]
    return total

  if stride == 1:
    return phase_gradient(0, 0)
  by_row = [jnp.stack([phase_gradient(r, c) for c in range(stride)], 3) for r in range(stride)]
  interleaved = jnp.stack(by_row, 2).reshape(images, rows * stride, columns * stride, channels)
  return interleaved[:, :height, :width]


def _kernel_gradient(x, dy, size, stride):
  """Image by image, a few output rows at a time and tap by tap, into one float32 accumulator [W, C] for each tap.

  The taps are a loop, so that one function is compiled for all of them.
  """
  pad, (_, out_h, out_w, channels) = size // 2, dy.shape
  num_rows = max(rows for rows in range(1, MAX_ROWS + 1) if out_h % rows == 0)
  reach = ((num_rows - 1) * stride + 1, (out_w - 1) * stride + 1, channels)

  def add_image(accumulators, image_and_gradient):
    image, gradient = image_and_gradient
    image = _pad(image, (pad, pad), (pad, pad))

    def add_rows(number, accumulators):
      first = number * num_rows
      gradient_rows = lax.dynamic_slice_in_dim(gradient, first, num_rows)

      def add_tap(tap, accumulators):
        x_rows = lax.dynamic_slice(image, (first * stride + tap // size, tap % size, 0), reach)[::stride, ::stride]
        total = lax.dynamic_index_in_dim(accumulators, tap, keepdims=False)
        for row in range(num_rows):
          total += (x_rows[row] * gradient_rows[row]).astype(jnp.float32)
        return lax.dynamic_update_index_in_dim(accumulators, total, tap, 0)

      return lax.fori_loop(0, size * size, add_tap, accumulators)

    return lax.fori_loop(0, out_h // num_rows, add_rows, accumulators), None

  accumulators, _ = lax.scan(add_image, jnp.zeros((size * size, out_w, channels), jnp.float32), (x, dy))
  taps = jnp.stack([accumulator.sum(0) for accumulator in accumulators])
  return taps.reshape(size, size, 1, channels).astype(x.dtype)


shifted_depthwise.defvjp(_shifted_forward, _shifted_backward)
