"""Settling a selection at the target, against all assignments."""

import itertools

import numpy as np
import pytest

from metamix_jax.method.bops import LayerCost, average_activation_bits, gbops
from metamix_jax.method.selection import bits_of, most_probable_candidates, settle_candidates

LAYERS = (
    LayerCost("first", 10**9, 100, (8,), 8, "conv", "unsigned"),
    LayerCost("a", 2 * 10**9, 50, (3, 4, 8), 4, "conv", "unsigned"),
    LayerCost("b", 3 * 10**9, 30, (3, 4, 8), 4, "depthwise", "unsigned"),
    LayerCost("c", 10**9, 20, (3, 4, 8), 4, "conv", "unsigned"),
)
# Cost: 64 + 8 a + 12 b + 4 c GBOPs; 136 at 3 bits, 256 at 8.
ALPHA = {"a": np.array([0.1, 0.2, 0.9]), "b": np.array([0.3, 0.25, 0.8]), "c": np.array([0.0, 1.0, 0.9])}


def exhaustive(target, tolerance):
  """The most probable assignment in the window; without one there, the most probable at or under the target."""
  fitting = []
  for choice in itertools.product(range(3), repeat=3):
    candidates = dict(zip("abc", choice))
    cost = gbops(LAYERS, bits_of(LAYERS, candidates))
    if cost <= target:
      score = sum(ALPHA[name][index] for name, index in candidates.items())
      fitting.append((cost >= (1 - tolerance) * target, score, candidates))
  return max(fitting, key=lambda entry: entry[:2])[2]


def test_argmax_is_kept_where_it_fits():
  assert most_probable_candidates(ALPHA) == {"a": 2, "b": 2, "c": 1}
  assert gbops(LAYERS, bits_of(LAYERS, {"a": 2, "b": 2, "c": 1})) == pytest.approx(240, rel=1e-12)
  assert settle_candidates(LAYERS, ALPHA, 240.0, 0.03) == {"a": 2, "b": 2, "c": 1}
  assert settle_candidates(LAYERS, ALPHA, 247.0, 0.03) == {"a": 2, "b": 2, "c": 1}


@pytest.mark.parametrize("target", [136.1, 145.0, 152.0, 171.0, 180.5, 201.0, 230.0, 239.0, 250.0, 256.0])
@pytest.mark.parametrize("tolerance", [0.005, 0.03, 0.2, 0.99])
def test_settled_is_the_most_probable_that_fits(target, tolerance):
  settled = settle_candidates(LAYERS, ALPHA, target, tolerance)
  assert settled == exhaustive(target, tolerance)
  assert gbops(LAYERS, bits_of(LAYERS, settled)) <= target


def test_unused_budget_is_spent():
  # argmax costs 240; 256, everything at 8 bits, is the only assignment within 3 % under 257.
  assert settle_candidates(LAYERS, ALPHA, 257.0, 0.03) == {"a": 2, "b": 2, "c": 2}


def test_target_below_reach():
  with pytest.raises(ValueError, match="target_gbops is 100; the lowest bit-widths already cost 136"):
    settle_candidates(LAYERS, ALPHA, 100.0, 0.03)


def test_average_bits_are_weighted_by_the_elements_read():
  # (8 * 100 + 3 * 50 + 4 * 30 + 8 * 20) / 200
  assert average_activation_bits(LAYERS, {"first": 8, "a": 3, "b": 4, "c": 8}) == 6.15
