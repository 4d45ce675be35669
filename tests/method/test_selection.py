"""Selecting within a target, against all assignments."""

import itertools

import numpy as np
import pytest

from metamix_jax.method.bops import (
    CostTable,
    LayerCost,
    average_activation_bits,
    candidate_widths,
    complete_bits,
    gbops,
    layer_gbops,
    uniform_bits,
    uniform_widths,
)
from metamix_jax.method.precision import assigned_precision
from metamix_jax.method.selection import (
    alpha_for_target,
    log_probabilities,
    most_probable_bits,
    select_within_target,
    weights_of_searches,
)

LAYERS = (
    LayerCost("first", 10**9, 100, (8,), 8, "conv", "unsigned"),
    LayerCost("a", 2 * 10**9, 50, (3, 4, 8), 4, "conv", "unsigned"),
    LayerCost("b", 3 * 10**9, 30, (3, 4, 8), 4, "depthwise", "unsigned"),
    LayerCost("c", 10**9, 20, (3, 4, 8), 4, "conv", "unsigned"),
)
# Cost: 64 + 8 a + 12 b + 4 c GBOPs; 136 at 3 bits, 256 at 8.
ALPHA = {"a": np.array([0.1, 0.2, 0.9]), "b": np.array([0.3, 0.25, 0.8]), "c": np.array([0.0, 1.0, 0.9])}


def cost_of(bits):
  return gbops(LAYERS, complete_bits(LAYERS, bits))


def exhaustive(target, tolerance):
  """The most probable assignment in the window; without one there, the most probable at or under the target."""
  fitting = []
  for choice in itertools.product(range(3), repeat=3):
    bits = {name: (3, 4, 8)[index] for name, index in zip("abc", choice, strict=True)}
    cost = cost_of(bits)
    if cost <= target:
      score = sum(ALPHA[name][index] for name, index in zip("abc", choice, strict=True))
      fitting.append((cost >= (1 - tolerance) * target, score, bits))
  return max(fitting, key=lambda entry: entry[:2])[2]


def test_argmax_is_kept_where_it_fits():
  assert most_probable_bits(LAYERS, ALPHA) == {"a": 8, "b": 8, "c": 4}
  assert cost_of({"a": 8, "b": 8, "c": 4}) == pytest.approx(240, rel=1e-12)
  assert select_within_target(LAYERS, ALPHA, 240.0, 0.03) == {"a": 8, "b": 8, "c": 4}
  assert select_within_target(LAYERS, ALPHA, 247.0, 0.03) == {"a": 8, "b": 8, "c": 4}


@pytest.mark.parametrize("target", [136.1, 145.0, 152.0, 156.0, 171.0, 180.5, 201.0, 230.0, 239.0, 250.0, 256.0])
@pytest.mark.parametrize("tolerance", [0.0, 0.005, 0.03, 0.2, 0.99])
def test_the_most_probable_that_fits_is_selected(target, tolerance):
  selected = select_within_target(LAYERS, ALPHA, target, tolerance)
  assert selected == exhaustive(target, tolerance)
  assert cost_of(selected) <= target


def test_what_the_target_leaves_is_spent():
  # argmax costs 240; 256, everything at 8 bits, is the only assignment within 3 % under 257.
  assert select_within_target(LAYERS, ALPHA, 257.0, 0.03) == {"a": 8, "b": 8, "c": 8}


@pytest.mark.parametrize("tolerance", [0.0, 0.03])
def test_a_target_that_is_the_cheapest_cost(tolerance):
  assert select_within_target(LAYERS, ALPHA, cost_of({"a": 3, "b": 3, "c": 3}), tolerance) == {"a": 3, "b": 3, "c": 3}


def test_a_target_that_only_the_highest_bits_cost_is_reached():
  """Of the costs as floats, 8 bits are a little more than all that the target leaves: one cell beyond the grid."""
  layers = (LAYERS[0], LayerCost("a", 1_000_001, 50, (3, 8), 4, "conv", "unsigned"))
  low, high = (gbops(layers, {"first": 8, "a": bits}) for bits in (3, 8))
  assert layer_gbops(layers[1], 8) - layer_gbops(layers[1], 3) > high - low
  assert select_within_target(layers, {"a": np.array([1.0, 0.0])}, high, 0.0) == {"a": 8}


def test_the_lowest_bits_are_kept_where_they_are_most_probable_and_nothing_fills_the_target():
  """At 141.9 GBOPs, 136 (all at 3 bits) and 140 (c at 4) fit, and neither is within half a percent of the target."""
  alpha = {name: np.array([2.0, 1.0, 0.0]) for name in "abc"}
  assert select_within_target(LAYERS, alpha, 141.9, 0.005) == {"a": 3, "b": 3, "c": 3}


def test_of_equally_probable_bits_of_one_cost_the_lowest_are_selected():
  """A layer without cost may have any bits; the others must come down to 200 GBOPs."""
  layers = (*LAYERS, LayerCost("free", 0, 20, (3, 4, 8), 4, "conv", "unsigned"))
  alpha = ALPHA | {"free": np.array([0.5, 1.0, 1.0])}
  selected = select_within_target(layers, alpha, 201.0, 0.03)
  assert selected == exhaustive(201.0, 0.03) | {"free": 4}


def layer_of(name, bits, costs):
  """A layer that costs these milliseconds at its candidates."""
  return LayerCost(name, 10**9, 50, bits, 4, "conv", "unsigned", cost=CostTable("latency", "ms", costs))


def test_the_grid_has_20000_cells_above_the_cheapest_bits():
  """Between the cheapest assignment, 0.04 ms, and the target lies 1 ms: a cell is 0.00005 ms.

  a and b at 4 bits cost 0.5 ms each, 10,000 cells. a at 8 bits is more probable than that and costs 0.00003 ms too
  much, which is cell 20,001. On any other grid 0.5 ms would be rounded up, and both could end in one cell, where only
  the more probable one would be left.
  """
  layers = (layer_of("first", (8,), (0.04,)), layer_of("a", (3, 4, 8), (0.0, 0.5, 1.00003)),
            layer_of("b", (3, 4), (0.0, 0.5)))
  alpha = {"a": np.array([0.0, 1.0, 3.0]), "b": np.array([0.0, 1.0])}
  assert select_within_target(layers, alpha, 1.04, 0.1) == {"a": 4, "b": 4}


@pytest.mark.parametrize("target", [2.0, 2.5])
def test_argmax_is_kept_where_other_bits_are_as_probable_and_cost_less(target):
  """Of equal maxima the lowest bits, although 8 bits are faster on this machine."""
  layers = (layer_of("a", (3, 8), (2.0, 1.0)),)
  assert select_within_target(layers, {"a": np.zeros(2)}, target, 0.9) == {"a": 3}


def test_alpha_of_another_number_of_candidates_is_an_error():
  """As of a search whose config had more candidates."""
  alpha = ALPHA | {"a": np.append(ALPHA["a"], 0.0)}
  with pytest.raises(ValueError, match="longer"):
    select_within_target(LAYERS, alpha, 201.0, 0.03)


def test_layers_with_different_candidates():
  layers = (*LAYERS, LayerCost("d", 10**9, 20, (2, 4), 4, "dense", "unsigned"))
  assert candidate_widths(layers) == (2, 3, 4, 8) and uniform_widths(layers) == (4,)
  assert uniform_bits(layers, 4) == {"first": 8, "a": 4, "b": 4, "c": 4, "d": 4}
  with pytest.raises(ValueError, match=r"layer 'd' is at 3 bits; its candidates are \(2, 4\)"):
    uniform_bits(layers, 3)
  alpha = ALPHA | {"d": np.array([0.0, 1.0])}
  assert select_within_target(layers, alpha, 136.0 + 8.0, 0.03) == {"a": 3, "b": 3, "c": 3, "d": 2}
  tree = assigned_precision(layers, {"a": 8, "b": 3, "c": 4, "d": 4})
  assert {name: int(leaf["candidate"]) for name, leaf in tree.items()} == {"first": 0, "a": 2, "b": 0, "c": 1, "d": 1}


def test_target_below_reach():
  with pytest.raises(ValueError, match="target_gbops is 100; the cheapest bit-widths already cost 136 GBOPs"):
    select_within_target(LAYERS, ALPHA, 100.0, 0.03)


def test_average_bits_are_weighted_by_the_elements_read():
  # (8 * 100 + 3 * 50 + 4 * 30 + 8 * 20) / 200
  assert average_activation_bits(LAYERS, {"first": 8, "a": 3, "b": 4, "c": 8}) == 6.15


@pytest.mark.parametrize("target, weights", [
    (100.0, {150.0: 1.0}), (150.0, {150.0: 1.0}), (160.0, {150.0: 0.75, 190.0: 0.25}), (190.0, {190.0: 1.0}),
    (191.0, {190.0: 0.9, 200.0: 0.1}), (300.0, {200.0: 1.0})])
def test_the_searches_beside_a_target_serve_it(target, weights):
  found = weights_of_searches((190.0, 150.0, 200.0), target)
  assert list(found) == sorted(weights) and found == pytest.approx(weights, rel=1e-12)


def test_bits_between_two_searches_have_the_highest_expected_log_probability():
  other = {"a": np.array([2.0, -1.0, 0.5]), "b": np.array([-3.0, 1.5, 1.0]), "c": np.array([0.5, 0.25, 0.0])}
  alpha = {150.0: other, 190.0: ALPHA}
  for target in (155.0, 170.0, 188.0):
    weight = (target - 150) / 40

    def expected(bits, weight=weight):
      return sum(
          share * (values[name] - np.log(np.exp(values[name]).sum()))[(3, 4, 8).index(width)]
          for share, values in ((1 - weight, other), (weight, ALPHA)) for name, width in bits.items())

    choices = [dict(zip("abc", choice, strict=True)) for choice in itertools.product((3, 4, 8), repeat=3)]
    best = max((bits for bits in choices if 0.9 * target <= cost_of(bits) <= target), key=expected)
    assert select_within_target(LAYERS, alpha_for_target(alpha, target), target, 0.1) == best


def test_a_searched_target_is_served_by_its_own_alpha_unchanged():
  alpha = {150.0: {name: values + 1 for name, values in ALPHA.items()}, 190.0: ALPHA}
  for target, expected in ((190.0, alpha[190.0]), (500.0, alpha[190.0]), (150.0, alpha[150.0]), (1.0, alpha[150.0])):
    served = alpha_for_target(alpha, target)
    assert served.keys() == expected.keys() and all(served[name] is expected[name] for name in expected)


def test_log_probabilities_by_hand():
  expected = np.log([1 / 8, 3 / 8, 4 / 8])
  for shift in (0.0, 1000.0, -1000.0, 0.5):
    np.testing.assert_allclose(log_probabilities(np.log([1.0, 3.0, 4.0]) + shift), expected, rtol=1e-6)
  assert log_probabilities(np.float32([0, 0])).dtype == np.float64


def test_two_searches_serve_a_target_by_its_distance():
  assert weights_of_searches([1.0, 3.5, 9.0], 3.0) == pytest.approx({1.0: 0.2, 3.5: 0.8})
  assert weights_of_searches([1.0, 3.5, 9.0], 8.0) == pytest.approx({3.5: 1 / 5.5, 9.0: 4.5 / 5.5})
  for target, only in ((0.5, 1.0), (1.0, 1.0), (3.5, 3.5), (10.0, 9.0)):
    assert weights_of_searches([1.0, 3.5, 9.0], target) == {only: 1.0}


def test_the_tolerance_counts_where_the_target_is_many_times_the_cheapest_cost():
  """a costs 20 GBOPs a bit, b 4; low bits are most probable. 5 and 1 bits cost 104 GBOPs, 5 and 2 bits 108."""
  layers = (LayerCost("a", 5 * 10**9, 50, tuple(range(1, 9)), 4, "conv", "unsigned"),
            LayerCost("b", 10**9, 50, (1, 2), 4, "conv", "unsigned"))
  alpha = {"a": -np.arange(8.0), "b": np.array([0.0, -0.5])}
  assert select_within_target(layers, alpha, 109.0, 0.05) == {"a": 5, "b": 1}
  assert select_within_target(layers, alpha, 112.0, 0.05) == {"a": 5, "b": 2}
