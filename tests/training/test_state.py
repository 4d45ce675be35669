"""The start of the two states."""

import numpy as np
import optax

from metamix_jax.training.state import create_arch_states
from tests.helpers.dense_network import dense_network


def test_the_penalty_is_divided_by_each_target():
  """lambda of M11 is relative_penalty_weight / target; alpha starts equally for each target, and differs by layer."""
  targets = (0.5, 2.0, 8.0)
  archs = create_arch_states(
      dense_network(), optax.sgd(1.0), seed=3, deviation=1e-3, targets_gbops=targets, relative_penalty_weight=4.0)
  np.testing.assert_array_equal(archs.penalty_weight, [8.0, 2.0, 0.5])
  np.testing.assert_array_equal(archs.target_gbops, targets)
  for alpha in archs.alpha.values():
    assert alpha.shape == (3, 3)
    np.testing.assert_array_equal(alpha, [alpha[0]] * 3)
    assert 0 < np.abs(alpha).max() < 5e-3
  assert not np.array_equal(archs.alpha["middle"], archs.alpha["last"])
