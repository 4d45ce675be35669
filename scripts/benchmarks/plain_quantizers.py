"""LSQ and the mixture as usually published, with automatic differentiation: a baseline of bench.py."""

import jax
import jax.numpy as jnp

from metamix_jax.method.quantizers import CodeRange
from metamix_jax.nn.scheme import Quantizer


def fake_quantize(x, step_size, codes, gradient_scale):
  """Quantises at one bit-width; takes the arguments of quantizers.fake_quantize."""
  scaled = step_size * gradient_scale
  step_size = jax.lax.stop_gradient(step_size) + (scaled - jax.lax.stop_gradient(scaled))  # Its value is exact.
  clipped = jnp.clip(x / step_size, codes.lowest, codes.highest)
  return (clipped + jax.lax.stop_gradient(jnp.round(clipped) - clipped)) * step_size


def mix_bit_widths(x, step_sizes, probabilities, codes, gradient_scales):
  """Mixes all bit-widths; takes the arguments of bit_mixture.mix_bit_widths."""
  return sum(
      pi * fake_quantize(x, s, CodeRange(n, p), g)
      for s, pi, n, p, g in zip(step_sizes, probabilities, codes.lowest, codes.highest, gradient_scales, strict=True))


PLAIN = Quantizer(fake_quantize, mix_bit_widths)
