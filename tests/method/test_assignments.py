"""Baselines of a search: uniform draws, sensitivity and local search, against every assignment of small networks."""

import collections
import itertools
import math

import numpy as np
import pytest

from metamix_jax.method.assignments import assign_by_sensitivity, draw_assignments, neighbours, search_locally
from metamix_jax.method.bops import LayerCost, complete_bits, gbops

# 64 GBOPs for the first layer; then 8, 12, 4 and 20 GBOPs for each activation bit.
LAYERS = (
    LayerCost("first", 10**9, 100, (8,), 8, "conv", "unsigned"),
    LayerCost("a", 2 * 10**9, 50, (3, 4, 8), 4, "conv", "unsigned"),
    LayerCost("b", 3 * 10**9, 30, (3, 4, 8), 4, "depthwise", "unsigned"),
    LayerCost("c", 10**9, 30, (2, 8), 4, "conv", "unsigned"),
    LayerCost("d", 5 * 10**9, 30, (3, 4, 6, 8), 4, "conv", "unsigned"),
)
SEARCHED = [layer for layer in LAYERS if layer.searched]


def every_assignment():
  for bits in itertools.product(*(layer.candidate_bits for layer in SEARCHED)):
    yield dict(zip("abcd", bits, strict=True))


def cost(bits):
  return gbops(LAYERS, complete_bits(LAYERS, bits))


def within(least, most):
  return [bits for bits in every_assignment() if least <= cost(bits) <= most]


def test_draws_are_uniform_over_all_assignments_within_the_bounds():
  allowed = within(230, 270)
  assert len(allowed) == 17
  number = 17_000
  drawn = collections.Counter(
      tuple(bits.items()) for bits in draw_assignments(LAYERS, 230, 270, number, np.random.default_rng(0)))
  assert set(drawn) == {tuple(bits.items()) for bits in allowed}
  # Five standard deviations of a count.
  deviation = math.sqrt(number * (1 / 17) * (16 / 17))
  assert max(abs(count - number / 17) for count in drawn.values()) < 5 * deviation


def test_bounds_are_exact_and_the_cheapest_assignments_are_found():
  rng = np.random.default_rng(0)
  # 64 + 24 + 36 + 8 + 60: the lowest bits of each layer; the bounds leave nothing else.
  lowest = {"a": 3, "b": 3, "c": 2, "d": 3}
  assert draw_assignments(LAYERS, 191, 199.9, 3, rng) == [lowest] * 3
  assert draw_assignments(LAYERS, 191, 192, 3, rng) == draw_assignments(LAYERS, 192, 192, 3, rng) == [lowest] * 3
  assert {tuple(bits.values()) for bits in draw_assignments(LAYERS, 200, 200, 20, rng)} == {(4, 3, 2, 3)}
  for least, most in ((193, 199), (100, 191), (700, 800)):
    with pytest.raises(ValueError, match="no assignment"):
      draw_assignments(LAYERS, least, most, 1, rng)


def test_bounds_that_only_the_grid_reaches_end_in_an_error():
  """8 GBOPs above the lowest bits fall into a cell that the bounds touch, and are below the bounds."""
  layers = (LAYERS[0], LAYERS[1])
  with pytest.raises(ValueError, match="no assignment was found that costs from 96.0001 to 120 GBOPs"):
    draw_assignments(layers, 96.0001, 120, 1, np.random.default_rng(0))
  assert draw_assignments(layers, 96, 120, 2, np.random.default_rng(0)) == [{"a": 4}] * 2


def test_a_large_network_has_more_assignments_than_float64_counts_exactly():
  layers = tuple(
      LayerCost(f"layer{number}", 10**6 * (7 + number), 1, (2, 3, 4, 8), 4, "conv", "unsigned") for number in range(62))
  drawn = draw_assignments(layers, 30.0, 30.9, 50, np.random.default_rng(0))
  assert all(30.0 <= gbops(layers, bits) <= 30.9 for bits in drawn)
  assert len({tuple(bits.values()) for bits in drawn}) == 50


@pytest.mark.parametrize("target", [192, 203.5, 230, 250, 300, 415.9, 416])
def test_sensitivity_minimises_the_sum_of_losses_under_the_target(target):
  rng = np.random.default_rng(int(target))
  losses = {layer.name: list(rng.uniform(0, 1, len(layer.candidate_bits))) for layer in SEARCHED}

  def total(bits):
    return sum(losses[layer.name][layer.candidate_of(bits[layer.name])] for layer in SEARCHED)

  found = assign_by_sensitivity(LAYERS, losses, target, tolerance=0.05)
  best = min(within(0.95 * target, target) or within(0, target), key=total)
  assert total(found) == pytest.approx(total(best), abs=1e-12)
  assert cost(found) <= target


def test_neighbours_move_one_layer_or_exchange_two():
  found = [tuple(bits.values()) for bits in neighbours(LAYERS, {"a": 4, "b": 3, "c": 8, "d": 4}, most_gbops=260)]
  # 64 + 32 + 36 + 32 + 80 = 244 GBOPs at the start.
  single = {(3, 3, 8, 4): 236, (8, 3, 8, 4): 276, (4, 4, 8, 4): 256, (4, 3, 2, 4): 220, (4, 3, 8, 3): 224,
            (4, 3, 8, 6): 284}
  pairs = {(3, 4, 8, 4): 248, (3, 3, 8, 6): 276, (8, 3, 2, 4): 252, (8, 3, 8, 3): 256, (4, 4, 2, 4): 232,
           (4, 4, 8, 3): 236, (4, 3, 2, 6): 260}
  assert sorted(found) == sorted(bits for bits, of_bits in (single | pairs).items() if of_bits <= 260)
  for bits, of_bits in (single | pairs).items():
    assert cost(dict(zip("abcd", bits, strict=True))) == pytest.approx(of_bits, rel=1e-12)


def test_local_search_reaches_the_optimum_of_a_sum_and_keeps_its_budget():
  weight = {"a": 1.0, "b": 3.0, "c": 0.2, "d": 2.0}
  asked = []

  def loss_of(bits):
    asked.append(tuple(bits.values()))
    return sum(weight[name] / value for name, value in bits.items())

  start = {"a": 3, "b": 3, "c": 2, "d": 3}
  best = search_locally(LAYERS, start, 260, loss_of, 500, np.random.default_rng(0))
  assert best == min(within(0, 260), key=lambda bits: sum(weight[name] / value for name, value in bits.items()))
  assert asked[0] == (3, 3, 2, 3) and len(asked) < 500
  asked.clear()
  search_locally(LAYERS, start, 260, loss_of, 4, np.random.default_rng(0))
  assert len(asked) == 4
  assert search_locally(LAYERS, start, 260, loss_of, 1, np.random.default_rng(0)) == start


def test_draws_of_any_room():
  """Between the cheapest assignment and a target: no room, less than a GBOP, and more than as much again."""
  rng = np.random.default_rng(0)
  layers = (LAYERS[0], LayerCost("a", 10**9, 50, (3, 8), 4, "conv", "unsigned"))  # 76 or 96 GBOPs.
  assert draw_assignments(layers, 70, 76.5, 3, rng) == [{"a": 3}] * 3
  for least, most in ((70, 75.5), (77, 76)):
    with pytest.raises(ValueError, match=f"no assignment costs from {least} to {most} GBOPs."):
      draw_assignments(layers, least, most, 1, rng)
  layers = (LayerCost("a", 10**9, 50, (2, 3, 8), 4, "conv", "unsigned"),)  # 8, 12 or 32 GBOPs.
  assert {bits["a"] for bits in draw_assignments(layers, 0, 40, 50, rng)} == {2, 3, 8}
  assert {bits["a"] for bits in draw_assignments(layers, 9, 20, 50, rng)} == {3}


def test_neighbours_move_by_one_candidate():
  layers = (LayerCost("d", 10**9, 30, (2, 3, 4, 6, 8), 4, "conv", "unsigned"),)
  for at, expected in ((2, [3]), (3, [2, 4]), (4, [3, 6]), (6, [4, 8]), (8, [6])):
    assert [bits["d"] for bits in neighbours(layers, {"d": at}, 1000)] == expected


def test_local_search_goes_on_from_the_best_and_equal_losses_are_no_improvement():
  evaluated, best = [], []

  def loss_of(bits):
    evaluated.append(bits)
    return cost(bits)  # The cheapest is the best.

  start = {"a": 8, "b": 8, "c": 8, "d": 8}
  cheapest = {"a": 3, "b": 3, "c": 2, "d": 3}
  assert search_locally(LAYERS, start, 1000, loss_of, 500, np.random.default_rng(0)) == cheapest
  best = start
  for bits in evaluated[1:]:
    assert bits in list(neighbours(LAYERS, best, 1000))
    best = bits if cost(bits) < cost(best) else best
  evaluated.clear()
  flat = lambda bits: evaluated.append(bits) or 1.0
  assert search_locally(LAYERS, start, 1000, flat, 500, np.random.default_rng(0)) == start
  assert len(evaluated) == 1 + len(list(neighbours(LAYERS, start, 1000)))
