"""Settlements under several constraints, against all assignments of small networks."""

import itertools
import math
import time

import numpy as np
import pytest
from scipy import optimize

from metamix_jax.method.bops import LayerCost, attainable_range, complete_bits, gbops
from metamix_jax.method.costs import peak_activation_bytes, with_activation_bytes, with_table
from metamix_jax.method.limits import Limit, select_within_limits

WIDTHS = (3, 4, 8)
NAMES = [f"layer_{number}" for number in range(8)]
PASSED_OVER = 1e-6  # What comes closer to a limit than this part of it may be passed over; docs/targets.md says so.
CHOICES = np.array(list(itertools.product(range(3), repeat=8)))  # [3^8, 8].


def layers_of(rng):
  """A first layer that is not searched, and eight with three candidates."""
  return (LayerCost("first", int(rng.integers(1, 10**8)), int(rng.integers(1, 500)), (8,), 8, "conv", "signed"), *(
      LayerCost(name, int(rng.integers(1, 10**8)), int(rng.integers(1, 1000)), WIDTHS, 4, "conv", "unsigned")
      for name in NAMES))


def limit_of(layers, rng, share):
  """A random table, and a limit at a share of its range."""
  table = with_table(
      layers, "latency", "ms",
      {(layer.name, bits, None): float(rng.uniform(0, 3)) for layer in layers for bits in layer.candidate_bits}, "t")
  low, high = attainable_range(table)
  return Limit(table, low + share * (high - low))


def costs_of_all(layers):
  """The cost of every assignment, [3^8]."""
  costs = np.array([[gbops([layer], {layer.name: bits}) for bits in WIDTHS] for layer in layers[1:]])
  return gbops(layers[:1], {"first": 8}) + costs[np.arange(8), CHOICES].sum(axis=1)


def check(rng, num_limits):
  """Compares one random case with all its assignments."""
  layers = layers_of(rng)
  limits = [limit_of(layers, rng, rng.uniform(0.1, 0.9)) for _ in range(num_limits)]
  low, high = attainable_range(layers)
  target, tolerance = low + rng.uniform(0.05, 1) * (high - low), float(rng.choice([0.02, 0.999]))
  alpha = {name: rng.normal(0, 2, 3) for name in NAMES}
  log_pi = np.array([values - np.log(np.exp(values).sum()) for values in alpha.values()])
  score = log_pi[np.arange(8), CHOICES].sum(axis=1)
  settled = select_within_limits(layers, alpha, target, tolerance, limits)
  rows = [Limit(layers, target), *limits]
  costs = [costs_of_all(row.layers) for row in rows]
  surely, perhaps = (
      np.all([cost <= row.most * (1 - margin) for cost, row in zip(costs, rows, strict=True)], axis=0)
      for margin in (4 * PASSED_OVER, -1e-12))
  spent = costs[0] >= (1 - tolerance) * target * (1 + 4 * PASSED_OVER)
  if settled is None:
    assert not surely.any()
    return
  for row in rows:
    assert gbops(row.layers, complete_bits(row.layers, settled.bits)) <= row.most
  index = int(np.argmax(np.all(CHOICES == [WIDTHS.index(settled.bits[name]) for name in NAMES], axis=1)))
  assert perhaps[index]
  best = np.max(score, where=surely & (spent if (surely & spent).any() else True), initial=-math.inf)
  assert score[index] >= best - settled.gap - 1e-9 and settled.gap <= 1e-6


@pytest.mark.parametrize("num_limits", [0, 1, 2])
def test_settlement_is_the_best_of_all_assignments(num_limits):
  rng = np.random.default_rng(num_limits)
  for _ in range(20):
    check(rng, num_limits)


@pytest.mark.slow
@pytest.mark.parametrize("num_limits", [0, 1])
def test_settlement_is_the_best_of_all_assignments_in_a_thousand_cases(num_limits):
  rng = np.random.default_rng(10 + num_limits)
  for _ in range(1000):
    check(rng, num_limits)


def test_bytes_and_peaks_are_limits_too():
  rng = np.random.default_rng(3)
  layers = layers_of(rng)
  alpha = {name: np.array([0.0, 1.0, 2.0]) for name in NAMES}  # 8 bits everywhere, if nothing forbids it.
  _, high = attainable_range(layers)
  assert set(select_within_limits(layers, alpha, high, 0.999, ()).bits.values()) == {8}
  in_bytes = with_activation_bytes(layers)
  low, most = attainable_range(in_bytes)
  limit = Limit(in_bytes, (low + most) / 2)
  settled = select_within_limits(layers, alpha, high, 0.999, [limit])
  assert low < gbops(in_bytes, complete_bits(in_bytes, settled.bits)) <= limit.most
  largest = max(layer.input_elements for layer in layers)
  settled = select_within_limits(layers, alpha, high, 0.999, (), peak_bytes=largest / 2)
  assert settled is None or peak_activation_bytes(layers, complete_bits(layers, settled.bits)) <= largest / 2
  assert select_within_limits(layers, alpha, high, 0.999, (), peak_bytes=0.1) is None
  assert select_within_limits(layers, alpha, high, 0.999, [Limit(in_bytes, low * 0.99)]) is None


@pytest.mark.parametrize("peak_bytes, bits_of_b", [(32.0, 8), (31.0, 4)])
def test_an_input_of_exactly_the_peak_is_allowed(peak_bytes, bits_of_b):
  """At 8 bits b reads 32 bytes, and a 16."""
  high = {name: values[::-1] for name, values in LOW.items()}
  assert select_within_limits(SMALL[1:], high, 1000.0, 0.999, [], peak_bytes).bits == {"a": 8, "b": bits_of_b}


def test_62_layers_of_16_choices_and_two_limits_take_less_than_a_second():
  rng = np.random.default_rng(0)
  # Bit-widths from 1 to 16: a choice each, whatever a quantiser would make of them.
  layers = tuple(
      LayerCost(f"layer_{number}", int(rng.integers(1, 10**8)), int(rng.integers(1, 1000)), tuple(range(1, 17)), 4,
                "conv", "unsigned") for number in range(62))
  limits = [limit_of(layers, rng, 0.4), limit_of(layers, rng, 0.4)]
  low, high = attainable_range(layers)
  alpha = {layer.name: rng.normal(0, 1, 16) for layer in layers}
  begun = time.process_time()
  settled = select_within_limits(layers, alpha, low + 0.4 * (high - low), 0.999, limits)
  assert time.process_time() - begun < 5  # 0.6 s on one core; the bound leaves room for a busy machine.
  for limit in limits:
    assert gbops(limit.layers, complete_bits(limit.layers, settled.bits)) <= limit.most
  assert settled.gap < 1e-4


SMALL = (
    LayerCost("first", 10**9, 80, (8,), 8, "conv", "signed"),  # 64 GBOPs.
    LayerCost("a", 10**9, 16, (4, 8), 4, "conv", "unsigned"),  # 16 or 32 GBOPs.
    LayerCost("b", 2 * 10**9, 32, (4, 8), 4, "conv", "unsigned"))  # 32 or 64 GBOPs.
LOW = {"a": np.array([2.0, 0.0]), "b": np.array([1.0, 0.0])}


@pytest.mark.parametrize("tolerance, expected", [
    (0.5, {"a": 4, "b": 4}), (0.1, {"a": 4, "b": 8}), (0.02, {"a": 4, "b": 8})])
def test_the_target_is_spent_but_for_the_tolerance(tolerance, expected):
  """Low bits are most probable: 112 GBOPs; a at 8: 128; b at 8: 144; both: 160. The target is 145."""
  loose = Limit(with_activation_bytes(SMALL), 1000.0)
  for limits in ([], [loose], [loose, Limit(SMALL, 150.0)]):
    assert select_within_limits(SMALL, LOW, 145.0, tolerance, limits).bits == expected


def test_a_limit_does_not_change_what_of_the_target_must_be_spent():
  """Of the 130.5 GBOPs, a at 8 bits spends 128, b at 8 bits 144; the layer that is not searched has 80 bytes."""
  rather_a = {"a": np.array([0.5, 0.0]), "b": np.array([2.0, 0.0])}
  loose = Limit(with_activation_bytes(SMALL), 1000.0)
  for limits in ([], [loose]):
    assert select_within_limits(SMALL, rather_a, 145.0, 0.1, limits).bits == {"a": 4, "b": 8}


@pytest.mark.parametrize("peak_bytes, expected", [(80.0, {"a": 4, "b": 4}), (79.0, None), (16.0, None)])
def test_the_peak_counts_the_layer_that_is_not_searched(peak_bytes, expected):
  """It reads 80 bytes, b at most 32."""
  settled = select_within_limits(SMALL, LOW, 145.0, 0.999, [], peak_bytes)
  assert (settled and settled.bits) == expected


def test_where_nothing_spends_the_target_the_most_probable_is_taken():
  assert select_within_limits(SMALL, LOW, 159.0, 0.01, []).bits == {"a": 4, "b": 4}


def test_a_tolerance_of_0_ends():
  """No assignment costs the target to the last bit operation; to prove that, the solver would try very many."""
  rng = np.random.default_rng(0)
  layers = tuple(
      LayerCost(f"layer_{number}", int(rng.integers(1, 10**8)), int(rng.integers(1, 1000)), WIDTHS, 4, "conv",
                "unsigned") for number in range(20))
  (low, high), alpha = attainable_range(layers), {layer.name: rng.normal(0, 1, 3) for layer in layers}
  target = low + 0.3 * (high - low)
  begun = time.process_time()
  settled = select_within_limits(layers, alpha, target, 0.0, [Limit(with_activation_bytes(layers), 1e9)])
  assert time.process_time() - begun < 60  # 6 s on one core.
  assert settled == select_within_limits(layers, alpha, target, 1.0, [])


@pytest.mark.parametrize("needed, expected", [(10_000, {"a": 4, "b": 8}), (10_001, {"a": 4, "b": 4})])
def test_the_least_cost_is_given_up_after_10000_nodes_and_nothing_else_is(monkeypatch, needed, expected):
  """With a solver that finds nothing in fewer nodes than `needed`; high bits in b alone spend the target."""
  milp = optimize.milp
  monkeypatch.setattr(optimize, "milp", lambda *args, options, **others: (
      milp(*args, options=options, **others) if options.get("node_limit", math.inf) >= needed
      else optimize.OptimizeResult(x=None)))
  assert select_within_limits(SMALL, LOW, 145.0, 0.1, []).bits == expected


def test_what_passes_a_limit_within_the_solvers_tolerance_is_solved_again():
  """b at 8 bits costs a ten-millionth more than the limit."""
  table = with_table(SMALL, "latency", "ms", {
      ("a", 4, None): 1.0, ("a", 8, None): 1.0, ("b", 4, None): 1.0, ("b", 8, None): 2.0}, "t")
  limit = Limit(table, 3.0 / (1 + PASSED_OVER / 10))
  high = {name: values[::-1] for name, values in LOW.items()}
  assert select_within_limits(SMALL, high, 1000.0, 0.999, [Limit(table, 3.0)]).bits == {"a": 8, "b": 8}
  settled = select_within_limits(SMALL, high, 1000.0, 0.999, [limit])
  assert settled.bits == {"a": 8, "b": 4} and settled.gap >= 0
