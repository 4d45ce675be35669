"""A quantiser without rounding, for tests of what rounding has no part in.

Sums in another order differ in the last bit, and a value on the edge between two codes then rounds the other way: a
whole step for one bit. Here nearly equal inputs give nearly equal results, whatever the data are. Step sizes,
bit-widths and gradient scales have the parts that they have in LSQ.
"""

import jax
import jax.numpy as jnp

from metamix_jax.nn.scheme import Quantizer


def fake_quantize(x, step_size, codes, gradient_scale):
  """Compresses x smoothly to the range of the codes; takes the arguments of quantizers.fake_quantize."""
  step_size = step_size + gradient_scale * (step_size - jax.lax.stop_gradient(step_size))
  largest = step_size * codes.highest
  return (largest * jnp.tanh(x.astype(jnp.float32) / largest)).astype(x.dtype)


def mix_bit_widths(x, step_sizes, probabilities, codes, gradient_scales):
  """Mixes all bit-widths; takes the arguments of bit_mixture.mix_bit_widths."""
  of_bits = jax.vmap(fake_quantize, in_axes=(None, 0, 0, 0))(x, step_sizes, codes, gradient_scales)
  return jnp.tensordot(probabilities, of_bits, axes=1).astype(x.dtype)


CONTINUOUS = Quantizer(fake_quantize, mix_bit_widths)
