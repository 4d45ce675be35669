"""What every quantiser does to any input: grid, clip, order, idempotence, and the gradients of M2."""

from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from metamix_jax.method import bit_mixture, quantizers
from metamix_jax.method.quantizers import CodeRange
from tests.helpers import properties  # noqa: F401

SIZE = 24
# Step sizes: float32 of any mantissa over 24 octaves. Inputs are given in steps, so that all codes and both ends occur.
STEP_SIZES = st.floats(2.0**-12, 2.0**12, width=32, allow_subnormal=False)
BITS = st.integers(2, 8)
RANGES = st.sampled_from(quantizers.INPUT_RANGES)
# None is so small that its product with a step size is subnormal: XLA may take such a number for 0, and NumPy does not.
INPUTS = st.lists(st.one_of(
    st.floats(-300, 300, width=32).map(lambda x: x if abs(x) > 2.0**-100 else 0.0), st.integers(-300, 300),
    st.integers(-600, 600).map(lambda n: n / 2)), min_size=SIZE, max_size=SIZE)


@jax.jit
def quantize(x, step_size, lowest, highest):
  """Values, and both gradients of their sum weighted with 1, 2, 3, ...; bits are data, so one program serves all."""
  codes = CodeRange(lowest, highest)
  y, pullback = jax.vjp(lambda x, s: quantizers.fake_quantize(x, s, codes, np.float32(0.5)), x, step_size)
  return y, *pullback(np.arange(1, SIZE + 1, dtype=np.float32))


def ends(bits, input_range):
  """n and p of M3, in words: all codes of b bits, of which a signed range leaves the lowest out."""
  if input_range == "signed":
    return 1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1
  return 0, 2**bits - 1


@given(BITS, RANGES)
def test_codes_are_those_of_the_bits(bits, input_range):
  codes = quantizers.code_range(np.int32(bits), input_range)
  assert (float(codes.lowest), float(codes.highest)) == ends(bits, input_range)


@given(INPUTS, STEP_SIZES, BITS, RANGES)
def test_values_are_numpys_and_on_the_grid(in_steps, step_size, bits, input_range):
  n, p = ends(bits, input_range)
  s = np.float32(step_size)
  x = (np.array(in_steps, np.float32) * s).astype(np.float32)
  y, dx, ds = map(np.asarray, quantize(x, s, np.float32(n), np.float32(p)))
  scaled = x / s
  codes = np.round(np.clip(scaled, np.float32(n), np.float32(p)))
  np.testing.assert_array_equal(y, s * codes)
  assert set(codes) <= set(range(n, p + 1))
  inside = (n <= scaled) & (scaled <= p)
  weights = np.arange(1, SIZE + 1, dtype=np.float32)
  np.testing.assert_array_equal(dx, np.where(inside, weights, 0))
  slope = np.where(inside, np.round(scaled) - scaled, np.where(scaled < n, n, p))
  np.testing.assert_allclose(ds, 0.5 * np.sum(weights * slope, dtype=np.float64), rtol=1e-5, atol=1e-3)
  assert np.all(np.abs(y - x)[inside] <= s * (0.5 + 2**-16))  # Nearest; 2^-16: the rounding of x / s of up to 255.


@given(INPUTS, STEP_SIZES, BITS, RANGES)
def test_quantising_again_changes_nothing_and_order_stays(in_steps, step_size, bits, input_range):
  n, p = map(np.float32, ends(bits, input_range))
  s = np.float32(step_size)
  x = np.sort(np.array(in_steps, np.float32) * s)
  y = np.asarray(quantize(x, s, n, p)[0])
  np.testing.assert_array_equal(quantize(y, s, n, p)[0], y)
  assert np.all(np.diff(y) >= 0) and s * n <= y[0] and y[-1] <= s * p


@given(
    st.integers(0, 2**32 - 1), st.lists(STEP_SIZES, min_size=3, max_size=3),
    st.lists(st.floats(-4, 4, width=32), min_size=3, max_size=3))
def test_a_mixture_lies_between_its_branches(seed, step_sizes, alpha):
  s = np.array(step_sizes, np.float32)
  x = np.random.default_rng(seed).normal(0, 8 * s[1], SIZE).astype(np.float32)
  mixed, branches, pi = map(np.asarray, mix(x, s, np.array(alpha, np.float32)))
  assert abs(pi.sum() - 1) < 1e-6 and np.all(pi > 0)
  np.testing.assert_allclose(mixed, np.sum(pi[:, None] * branches, axis=0), rtol=1e-5, atol=1e-5 * s.max())
  margin = 1e-5 * np.abs(branches).max()
  assert np.all(mixed <= branches.max(0) + margin) and np.all(mixed >= branches.min(0) - margin)


@jax.jit
def mix(x, step_sizes, alpha):
  codes = quantizers.code_range(np.array([2, 4, 8]), "signed")
  pi, ones = bit_mixture.bit_probabilities(alpha), np.ones(3, np.float32)
  branches = [quantizers.fake_quantize(x, step_sizes[b], CodeRange(codes.lowest[b], codes.highest[b]), ones[b])
              for b in range(3)]
  return bit_mixture.mix_bit_widths(x, step_sizes, pi, codes, ones), jnp.stack(branches), pi
