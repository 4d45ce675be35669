"""The start of the architecture states, and lambda of each target."""

import numpy as np
import optax
import pytest

from metamix_jax.training.context import penalty_weights
from metamix_jax.training.state import create_arch_states
from tests.helpers.configs import digits_config
from tests.helpers.dense_network import dense_network


def test_the_relative_penalty_is_divided_by_each_target():
  """lambda of M11 is relative_penalty_weight / target, or penalty_weight itself."""
  config = digits_config()
  with config.ignore_type():
    config.arch.target_gbops = (0.5, 2.0, 8.0)
    config.arch.penalty_weight, config.arch.relative_penalty_weight = None, 4.0
    assert penalty_weights(config) == pytest.approx((8.0, 2.0, 0.5), rel=1e-12)
    config.arch.penalty_weight, config.arch.relative_penalty_weight = 3.0, None
  assert penalty_weights(config) == (3.0, 3.0, 3.0)


def test_each_target_starts_with_its_penalty_and_the_same_alpha():
  archs = create_arch_states(
      dense_network(), optax.sgd(1.0), seed=3, initial_std=1e-3, targets_gbops=(0.5, 2.0, 8.0),
      penalty_weights=(8.0, 2.0, 0.5))
  np.testing.assert_array_equal(archs.penalty_weight, [8.0, 2.0, 0.5])
  np.testing.assert_array_equal(archs.target_gbops, [0.5, 2.0, 8.0])
  for alpha in archs.alpha.values():
    assert alpha.shape == (3, 3)
    np.testing.assert_array_equal(alpha, [alpha[0]] * 3)
    assert 0 < np.abs(alpha).max() < 5e-3
  assert not np.array_equal(archs.alpha["middle"], archs.alpha["last"])
