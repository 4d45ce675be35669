"""M5-M7: bit probabilities, the mixture of quantised activations, and straight-through selection.

The source tags are those of quantizers.py. Each searched layer has one float32 vector alpha [B], where B is the number
of candidate bit-widths.
"""

from typing import Any

import jax
from jax import Array
import jax.numpy as jnp

from metamix_jax.method.quantizers import CodeRange, fake_quantize, straight_through_gradients
from metamix_jax.method.reductions import map_and_sum


def initial_alpha(key: Array, num_candidates: int, initial_std: float) -> Array:
  """Draws the initial alpha of M5, [B] float32: N(0, 1) times a standard deviation, 1e-3 in the release [C]."""
  return initial_std * jax.random.normal(key, (num_candidates,), jnp.float32)


def bit_probabilities(alpha: Array) -> Array:
  """M5 [P, C]: returns pi = softmax(alpha) over the last axis; [..., B] -> [..., B], float32."""
  return jax.nn.softmax(alpha, axis=-1)


@jax.custom_vjp
def mix_bit_widths(
    x: Array, step_sizes: Array, probabilities: Array, codes: CodeRange, gradient_scales: Array
) -> Array:
  """M6 [P, C]: mixes the quantised inputs, x~ = sum_b pi_b * x^_b.

  The layer then runs one convolution on x~ instead of one for each bit-width.

  Args:
    x: a layer's input, any shape, floating point.
    step_sizes: [B], > 0.
    probabilities: pi, [B].
    codes: n and p, [B] each.
    gradient_scales: g of M2, [B].

  Returns:
    Array like x. The backward pass recomputes the branches, so x is the only activation that is saved for it.
  """
  branches = zip(step_sizes, probabilities, codes.lowest, codes.highest, gradient_scales, strict=True)
  mixed: Any = sum(pi * fake_quantize(x, s, CodeRange(n, p), g) for s, pi, n, p, g in branches)
  return mixed.astype(x.dtype)


def _mix_forward(x, step_sizes, probabilities, codes, gradient_scales):
  mixed = mix_bit_widths(x, step_sizes, probabilities, codes, gradient_scales)
  return mixed, (x, step_sizes, probabilities, codes, gradient_scales)


def _mix_backward(saved, dy):
  x, step_sizes, probabilities, codes, gradient_scales = saved
  num_branches = len(step_sizes)
  codes_of = lambda b: CodeRange(codes.lowest[b], codes.highest[b])

  def gradients(x, dy):
    dy = dy.astype(jnp.float32)
    slopes, branches = [], []
    dx: Any = 0
    for b in range(num_branches):
      inside, slope = straight_through_gradients(x, step_sizes[b], codes_of(b))
      dx += jnp.where(inside, probabilities[b] * dy, 0)
      slopes.append(dy * slope)
      branches.append(dy * fake_quantize(x, step_sizes[b], codes_of(b), gradient_scales[b]))
    return dx.astype(x.dtype), (*slopes, *branches)

  dx, sums = map_and_sum(gradients, x, dy)
  ds = gradient_scales * probabilities * jnp.stack(sums[:num_branches])
  dpi = jnp.stack(sums[num_branches:])
  zero_codes = CodeRange(jnp.zeros_like(codes.lowest), jnp.zeros_like(codes.highest))
  return dx, ds, dpi, zero_codes, jnp.zeros_like(gradient_scales)


mix_bit_widths.defvjp(_mix_forward, _mix_backward)


@jax.custom_vjp
def straight_through_selection(alpha: Array) -> Array:
  """M7 [P, C]: returns one-hot(argmax alpha), with the gradient of softmax(alpha).

  Args:
    alpha: [..., B] float32. Of several equal maxima the first is selected.

  Returns:
    [..., B] float32 with a single 1 in each row.
  """
  return jax.nn.one_hot(jnp.argmax(alpha, axis=-1), alpha.shape[-1], dtype=alpha.dtype)


def _selection_forward(alpha):
  return straight_through_selection(alpha), bit_probabilities(alpha)


def _selection_backward(probabilities, dy):
  weighted = probabilities * dy
  return (weighted - probabilities * jnp.sum(weighted, axis=-1, keepdims=True),)


straight_through_selection.defvjp(_selection_forward, _selection_backward)
