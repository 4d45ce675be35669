"""M1-M4: LSQ fake quantisation with learned step sizes, as pure functions of arrays.

Sources: [P] MetaMix (AAAI 2024, arXiv 2311.06798); [C] the public PyTorch release of its MobileNetV3
experiment; [L] LSQ, "Learned Step Size Quantization" (ICLR 2020); [A] an assumption of this project.

Notation: x is a tensor of values, s a step size, n and p the lowest and highest integer code, b a bit-width.
Bit-widths, and therefore n and p, are arrays, so changing them never recompiles a program. docs/method.md lists all
equations in order.
"""

from collections.abc import Sequence
import math
from typing import Any, NamedTuple

import jax
from jax import Array
import jax.numpy as jnp
from jax.typing import ArrayLike

from metamix_jax.method.reductions import map_and_sum

# h-swish, x * relu6(x + 3) / 6, has its minimum of -3/8 at x = -3/2; adding 3/8 makes its range unsigned (M3 [C]).
HARD_SWISH_SHIFT = 3.0 / 8.0

INPUT_RANGES = ("unsigned", "signed", "hard_swish")


class CodeRange(NamedTuple):
  """The integer codes n..p of M3: `lowest` is n and `highest` is p, float32, each shaped like the bit-widths."""

  lowest: Array
  highest: Array


def code_range(bits: ArrayLike | Sequence[int], input_range: str) -> CodeRange:
  """M3 [C]: returns the lowest and the highest integer code of each bit-width.

  Args:
    bits: bit-widths, any shape, integer or float.
    input_range: "unsigned" (n = 0, p = 2^b - 1), "signed" (p = 2^(b-1) - 1, n = -p) or "hard_swish" (as unsigned,
      because the caller has added 3/8 to the input).

  Returns:
    CodeRange of float32 arrays shaped like `bits`.

  Raises:
    ValueError: `input_range` is not one of the three.
  """
  if input_range not in INPUT_RANGES:
    raise ValueError(f"input_range is {input_range!r}; allowed are {', '.join(INPUT_RANGES)}.")
  levels = jnp.exp2(jnp.asarray(bits, jnp.float32) - (1 if input_range == "signed" else 0))
  # exp2 of an integer should be exact but is not in every XLA backend, so round to the intended integer.
  highest = jnp.round(levels) - 1
  lowest = -highest if input_range == "signed" else jnp.zeros_like(highest)
  return CodeRange(lowest, highest)


def input_shift(input_range: str) -> float:
  """Returns the offset added to a layer's input before quantisation and subtracted afterwards (M3): 3/8 or 0."""
  return HARD_SWISH_SHIFT if input_range == "hard_swish" else 0.0


def lowest_input(input_range: str) -> float:
  """Returns the lowest value that a layer of this range can tell from others: 0, -3/8 or, if signed, -infinity (M3)."""
  return -math.inf if input_range == "signed" else 0.0 - input_shift(input_range)


def initial_step_size(mean_magnitude: Array, levels: Array) -> Array:
  """M4 [C]: initialises a step size to s = 2 * mean|x| / sqrt(levels).

  Args:
    mean_magnitude: float32. For activations, mean|x| of a layer's input before the shift, scalar; for weights,
      mean|w| of each output channel, [out_channels].
    levels: for activations, 2^b - 1 for each candidate bit-width, [B], even where the input is signed [C]; for
      weights, 2^(b-1) - 1, scalar, or where their bits are searched [W, 1] for W candidates.

  Returns:
    Step sizes [B], [out_channels] or [W, out_channels], float32.
  """
  return 2 * mean_magnitude / jnp.sqrt(levels)


def lowest_initial_step_size(mean_magnitude: Array, bits: Array, input_range: str) -> Array:
  """Returns the smallest step size whose codes still cover shift + mean|x|, which is (shift + mean|x|) / p [A].

  M4 ignores the 3/8 that is added to an h-swish output. Where mean|x| is small compared with 3/8 and the bits are few,
  the highest code can lie below every shifted value, and the whole layer is clipped to that code. Batch norm turns the
  constant into zero, and no gradient ever moves the step size again. This bound exceeds M4's start at 2 bits
  where mean|x| is below 0.15, at 3 bits below 0.09 and at 4 bits below 0.06; without a shift it never does.

  Args:
    mean_magnitude: as in `initial_step_size`.
    bits: bit-widths [B].
    input_range: as in `code_range`.

  Returns:
    Step sizes [B], float32.
  """
  return (input_shift(input_range) + mean_magnitude) / code_range(bits, input_range).highest


def keep_positive(step_sizes, floor: float):
  """Clamps every leaf of a tree to at least `floor`, so that no step size becomes <= 0 (M4)."""
  return jax.tree.map(lambda s: jnp.maximum(s, floor), step_sizes)


def step_size_gradient_scale(num_elements: Any, highest: Array) -> Array:
  """Returns the gradient scale g = 1 / sqrt(N * p) of M2 [L, C].

  Args:
    num_elements: N. For activations, the elements of the layer's input over the GLOBAL batch, so that an update does
      not depend on the number of devices [A]; for weights, the elements of the whole kernel [C].
    highest: p, the highest code.
  """
  return jax.lax.rsqrt(jnp.float32(num_elements) * highest)


@jax.custom_vjp
def fake_quantize(x: Array, step_size: Array, codes: CodeRange, gradient_scale: Array) -> Array:
  """M1 [L, C]: x^ = s * round(clip(x / s, n, p)), ties to even, with the gradients of M2.

  Computes in float32 whatever the dtype of x.

  Args:
    x: values, any shape, floating point.
    step_size: s > 0, float32: scalar, or [out_channels] for a kernel [..., out_channels].
    codes: n and p, scalars.
    gradient_scale: g of M2, scalar.

  Returns:
    Array shaped like x with values on the grid s * {n, ..., p}, rounded to the dtype of x.
  """
  codes_of_x = jnp.round(jnp.clip(_in_steps(x, step_size), codes.lowest, codes.highest))
  return (step_size * codes_of_x).astype(x.dtype)


def _in_steps(x: Array, step_size: Array) -> Array:
  """Returns x / s in float32, correctly rounded.

  XLA replaces division by a broadcast value with multiplication by its reciprocal. A quarter of the quotients are then
  off by one unit in the last place, which is enough to move a tie. A divisor that depends on the element prevents the
  replacement.
  """
  x = x.astype(jnp.float32)
  return x / jnp.where(jnp.isnan(x), x, step_size)


def _fake_quantize_forward(x, step_size, codes, gradient_scale):
  return fake_quantize(x, step_size, codes, gradient_scale), (x, step_size, codes, gradient_scale)


def _fake_quantize_backward(saved, dy):
  """Applies M2 to a cotangent; the codes and the gradient scale are constants and get zero gradients."""
  x, step_size, codes, gradient_scale = saved
  dy = dy.astype(jnp.float32)
  if jnp.ndim(step_size) == 0:
    def gradients(x, dy):
      inside, slope = straight_through_gradients(x, step_size, codes)
      return jnp.where(inside, dy, 0).astype(x.dtype), (dy * slope,)

    dx, (ds,) = map_and_sum(gradients, x, dy)
  else:  # A kernel has one step size for each output channel.
    inside, slope = straight_through_gradients(x, step_size, codes)
    dx, ds = jnp.where(inside, dy, 0).astype(x.dtype), jnp.sum(dy * slope, axis=tuple(range(x.ndim - 1)))
  zero_codes = CodeRange(jnp.zeros_like(codes.lowest), jnp.zeros_like(codes.highest))
  return dx, gradient_scale * ds, zero_codes, jnp.zeros_like(gradient_scale)


def straight_through_gradients(x: Array, step_size: Array, codes: CodeRange) -> tuple[Array, Array]:
  """M2 [L, C]: returns the straight-through derivatives dx^/dx and dx^/ds, the latter without the factor g.

  Args:
    x: values, any shape, floating point.
    step_size: s > 0, scalar, or [out_channels] for a kernel [..., out_channels].
    codes: n and p, scalars.

  Returns:
    inside: bool, shaped like x: true where n <= x / s <= p. dx^/dx is 1 there and 0 elsewhere.
    slope: float32, shaped like x: dx^/ds, which is n below the range, p above it and round(x / s) - x / s inside.
  """
  scaled = _in_steps(x, step_size)
  clipped = jnp.clip(scaled, codes.lowest, codes.highest)
  inside = scaled == clipped
  return inside, jnp.where(inside, jnp.round(scaled) - scaled, clipped)


fake_quantize.defvjp(_fake_quantize_forward, _fake_quantize_backward)
