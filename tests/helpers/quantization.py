"""Golden arrays of an independent implementation, and LSQ as it was published, for M1 to M8."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.helpers.files import GOLDEN

ARRAYS = np.load(GOLDEN / "quantizers.npz")


def assert_relative(actual, expected, relative=1e-5):
  """Compares two arrays in the Euclidean norm."""
  assert np.linalg.norm(actual - expected) <= relative * np.linalg.norm(expected)


def lsq_reference(x, s, n, p, g):
  """LSQ as published: pseudo-code with stop_gradient, nothing shared with the package."""
  s = jax.lax.stop_gradient(s - s * g) + s * g
  scaled = jnp.minimum(jnp.maximum(x / s, n), p)
  return (scaled + jax.lax.stop_gradient(jnp.round(scaled) - scaled)) * s
