"""M1-M4: LSQ fake quantisation with learned step sizes, as pure functions.

Sources: [P] MetaMix (AAAI 2024, arXiv 2311.06798); [C] the public PyTorch release of its MobileNetV3
experiment; [L] LSQ, "Learned Step Size Quantization" (ICLR 2020); [A] an assumption of this project.

Notation: x values, s step size, n and p the lowest and highest integer code, b a bit-width. Bit-widths,
and therefore n and p, are arrays: changing them never recompiles a program.
"""

from typing import NamedTuple

import jax
from jax import Array
import jax.numpy as jnp

from metamix_jax.method.reductions import map_and_sum

# Minimum of h-swish, x * relu6(x + 3) / 6, at x = -3/2: shifting by it makes the range unsigned (M3 [C]).
HARD_SWISH_SHIFT = 3.0 / 8.0

INPUT_RANGES = ("unsigned", "signed", "hard_swish")


class CodeRange(NamedTuple):
  """M3's integer codes n..p: `lowest` and `highest`, float32, of the shape of the bit-widths."""

  lowest: Array
  highest: Array


def code_range(bits: Array, input_range: str) -> CodeRange:
  """M3 [C]: the integer codes of a bit-width.

  Args:
    bits: bit-widths, any shape, integer or float.
    input_range: "unsigned" (n = 0, p = 2^b - 1), "signed" (p = 2^(b-1) - 1, n = -p) or "hard_swish",
      whose input is shifted by 3/8 by the caller and is unsigned after that.

  Returns:
    CodeRange of float32 arrays of the shape of `bits`.

  Raises:
    ValueError: `input_range` is none of the three.
  """
  if input_range not in INPUT_RANGES:
    raise ValueError(f"input_range is {input_range!r}; allowed are {', '.join(INPUT_RANGES)}.")
  levels = jnp.exp2(jnp.asarray(bits, jnp.float32) - (1 if input_range == "signed" else 0))
  # exp2 of an integer is exact on paper, not in every XLA backend: round to the integer that is meant.
  highest = jnp.round(levels) - 1
  lowest = -highest if input_range == "signed" else jnp.zeros_like(highest)
  return CodeRange(lowest, highest)


def input_shift(input_range: str) -> float:
  """What is added to a layer's input before quantisation and subtracted after (M3): 3/8 or 0."""
  return HARD_SWISH_SHIFT if input_range == "hard_swish" else 0.0


def initial_step_size(mean_magnitude: Array, levels: Array) -> Array:
  """M4 [C]: the start of a step size, s = 2 * mean|x| / sqrt(levels).

  Args:
    mean_magnitude: activations: mean|x| of a layer's input before the shift, scalar; weights: mean|w| of
      each output channel, [out_channels]. float32.
    levels: activations: 2^b - 1 for each candidate bit-width, [B], for signed inputs too [C]; weights:
      2^(b-1) - 1, scalar.

  Returns:
    Step sizes [B] or [out_channels], float32.
  """
  return 2 * mean_magnitude / jnp.sqrt(levels)


def lowest_initial_step_size(mean_magnitude: Array, bits: Array, input_range: str) -> Array:
  """The least step size at which the codes of M3 reach from the shift up to mean|x|, (shift + mean|x|) / p [A].

  M4 does not know the shift of h-swish: where mean|x| is small beside 3/8, few bits cover less than 3/8 and every
  value of a layer is clipped to one. Batch norm makes that zero, and no gradient ever moves the step size again. At 2
  bits it happens where mean|x| is below 0.15, at 3 bits below 0.09, at 4 bits below 0.06; without a shift never.

  Args:
    mean_magnitude: as in `initial_step_size`.
    bits: bit-widths [B].
    input_range: as in `code_range`.

  Returns:
    Step sizes [B], float32.
  """
  return (input_shift(input_range) + mean_magnitude) / code_range(bits, input_range).highest


def keep_positive(step_sizes, floor: float):
  """Clamps every leaf of a tree to at least `floor`, so that a step size never becomes <= 0 (M4)."""
  return jax.tree.map(lambda s: jnp.maximum(s, floor), step_sizes)


def step_size_gradient_scale(num_elements: Array, highest: Array) -> Array:
  """The factor g = 1 / sqrt(N * p) of M2 [L, C].

  Args:
    num_elements: N, the number of elements that share the quantiser. Activations: of the GLOBAL batch,
      so that an update does not depend on the number of devices [A]. Weights: of the whole kernel [C].
    highest: p, the highest code.
  """
  return jax.lax.rsqrt(jnp.float32(num_elements) * highest)


@jax.custom_vjp
def fake_quantize(x: Array, step_size: Array, codes: CodeRange, gradient_scale: Array) -> Array:
  """M1 [L, C]: x^ = s * round(clip(x / s, n, p)), ties to even, with the gradients of M2.

  Computed in float32 whatever the type of x.

  Args:
    x: values, any shape, floating point.
    step_size: s > 0, float32: scalar, or [out_channels] for a kernel [..., out_channels].
    codes: n and p, scalars.
    gradient_scale: g of M2, scalar.

  Returns:
    Array like x, on the grid s * {n, ..., p}, rounded to x's type.
  """
  codes_of_x = jnp.round(jnp.clip(_in_steps(x, step_size), codes.lowest, codes.highest))
  return (step_size * codes_of_x).astype(x.dtype)


def _in_steps(x: Array, step_size: Array) -> Array:
  """x / s in float32, correctly rounded.

  XLA turns a division by a broadcast value into a product with its reciprocal, one unit in the last place off in
  a quarter of the cases: enough to move a tie. A divisor that depends on the element keeps the division.
  """
  x = x.astype(jnp.float32)
  return x / jnp.where(jnp.isnan(x), x, step_size)


def _fake_quantize_forward(x, step_size, codes, gradient_scale):
  return fake_quantize(x, step_size, codes, gradient_scale), (x, step_size, codes, gradient_scale)


def _fake_quantize_backward(saved, dy):
  """Applies M2 to a cotangent; codes and gradient scale are constants of the quantiser."""
  x, step_size, codes, gradient_scale = saved
  dy = dy.astype(jnp.float32)
  if jnp.ndim(step_size) == 0:
    def gradients(x, dy):
      inside, slope = straight_through_gradients(x, step_size, codes)
      return jnp.where(inside, dy, 0).astype(x.dtype), (dy * slope,)

    dx, (ds,) = map_and_sum(gradients, x, dy)
  else:  # A kernel's, one for each output channel.
    inside, slope = straight_through_gradients(x, step_size, codes)
    dx, ds = jnp.where(inside, dy, 0).astype(x.dtype), jnp.sum(dy * slope, axis=tuple(range(x.ndim - 1)))
  zero_codes = CodeRange(jnp.zeros_like(codes.lowest), jnp.zeros_like(codes.highest))
  return dx, gradient_scale * ds, zero_codes, jnp.zeros_like(gradient_scale)


def straight_through_gradients(x: Array, step_size: Array, codes: CodeRange) -> tuple[Array, Array]:
  """M2 [L, C]: the straight-through derivatives of x^ by x and, before the factor g, by s.

  Returns:
    inside: bool like x, true where n <= x / s <= p; dx^/dx is 1 there and 0 elsewhere.
    slope: float32, of x's shape: n below the range, p above it, round(x / s) - x / s within.
  """
  scaled = _in_steps(x, step_size)
  clipped = jnp.clip(scaled, codes.lowest, codes.highest)
  inside = scaled == clipped
  return inside, jnp.where(inside, jnp.round(scaled) - scaled, clipped)


fake_quantize.defvjp(_fake_quantize_forward, _fake_quantize_backward)
