"""The step sizes that a layer starts from."""

import jax.numpy as jnp
import numpy as np

from metamix_jax.nn.layers import activation_step_sizes


def test_step_sizes_start_within_reach_of_small_hard_swish_values():
  """mean|x| = 0.06: at 2 and 3 bits M4's start would clip every value to one; from 4 bits on it is kept."""
  magnitude = jnp.float32(0.06)
  step_sizes = activation_step_sizes(magnitude, (2, 3, 4, 8), "hard_swish")
  m4 = [2 * 0.06 / np.sqrt(2**b - 1) for b in (2, 3, 4, 8)]
  np.testing.assert_allclose(step_sizes, [0.435 / 3, 0.435 / 7, m4[2], m4[3]], rtol=1e-6)
  np.testing.assert_allclose(activation_step_sizes(magnitude, (2, 3, 4, 8), "unsigned"), m4, rtol=1e-6)
  np.testing.assert_allclose(activation_step_sizes(magnitude, (2, 3, 4, 8), "signed"), m4, rtol=1e-6)
