"""Activation stability: the distance by hand. tests/test_experiment.py has that of a run."""

import numpy as np
import pytest

from metamix_jax.training import stability


def test_distance_by_hand():
  """Two channels, three bit-widths; the pairs' distances are 1, 0, 1 and 0, 2, 2, the scales 1 and sqrt(3)."""
  means = [[0.0, 5.0], [1.0, 5.0], [0.0, 5.0]]
  deviations = np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 3.0]])
  root = np.sqrt((1 + 1 + 9) / 3)
  expected = (1 + 0 + 1 + (0 + 2 + 2) / root) / 6
  assert stability.activation_distance(means, deviations**2) == pytest.approx(expected, rel=1e-12)
  # In standard deviations: another unit of the activations does not matter. 3-4-5: mean and deviation both move.
  assert stability.activation_distance(10 * np.array(means), 100 * deviations**2) == pytest.approx(expected, rel=1e-12)
  assert stability.activation_distance([[0.0], [3.0]], [[1.0], [25.0]]) == pytest.approx(5 / np.sqrt(13), rel=1e-12)


def test_constant_channels_have_no_scale():
  """A channel of noise below the rounding of its mean is left out, one of small numbers is not."""
  assert stability.activation_distance([[1.0, 0.0], [2.0, 1e-9]], [[1e-16, 1e-18], [0.0, 1e-18]]) == pytest.approx(1.0)
  assert stability.activation_distance([[1.0], [2.0]], [[0.0], [0.0]]) == 0.0
