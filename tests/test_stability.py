"""Activation stability: the distance by hand, the order of the layers, and what a network without quantisation gives."""

import jax
import numpy as np
import pytest

from metamix_jax import phases, stability, task
from tests.test_experiment import data_dir, tiny_config  # pylint: disable=unused-import  The fixture.


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


def test_a_network_in_network_order(data_dir):
  """Each batch norm once, in the order of the calls; distances of rough bits are larger, and none without a change."""
  config = tiny_config(data_dir)
  work = task.prepare(config)
  meta = work.replicate(phases.start_step_sizes(work, work.replicate(phases.create_student(work))))
  distances = stability.measure_stability(work, meta)
  assert list(distances) == [
      "stem_norm", "block_00/depthwise_norm", "block_00/project_norm", "block_01/expand_norm", "block_01/depthwise_norm",
      "block_01/project_norm", "head_norm"]
  assert distances["stem_norm"] == 0  # Its input is that of a layer which is not searched.
  assert all(0.001 < value < 10 for name, value in distances.items() if name != "stem_norm")
  jax.tree.map(lambda leaf: leaf.block_until_ready(), meta)  # Nothing of it was donated.
