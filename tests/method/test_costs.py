"""Costs besides BOPs, by hand; the knapsack on tables of any shape, against all assignments."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from metamix_jax.errors import UserError
from metamix_jax.method.bops import (
    LayerCost,
    attainable_range,
    cheapest_bits,
    complete_bits,
    cost_name,
    cost_unit,
    gbops,
    layer_gbops,
)
from metamix_jax.method.costs import (
    peak_activation_bytes,
    total_activation_bytes,
    weight_bytes,
    with_activation_bytes,
    with_table,
)
from metamix_jax.method.selection import select_within_target

LAYERS = (
    LayerCost("first", 10**9, 100, (8,), 8, "conv", "signed", 72),
    LayerCost("a", 2 * 10**9, 50, (3, 4, 8), 4, "conv", "unsigned", 1000),
    LayerCost("b", 3 * 10**9, 30, (4, 8), 4, "depthwise", "unsigned", 90))
# A machine on which 4 bits are slower than 8.
LATENCY = {("a", 3, 4): 0.5, ("a", 4, 4): 0.75, ("a", 8, 4): 0.25, ("b", 4, None): 1.0, ("b", 8, None): 3.0,
           ("b", 8, 8): 9.0, ("a", 5, 4): 0.0}


def test_bytes_by_hand():
  bits = {"first": 8, "a": 3, "b": 4}
  assert total_activation_bytes(LAYERS, bits) == 100 + 50 * 3 / 8 + 30 * 4 / 8
  assert peak_activation_bytes(LAYERS, bits) == 100
  assert peak_activation_bytes(LAYERS[1:], bits) == 50 * 3 / 8
  assert weight_bytes(LAYERS) == 72 + 1000 / 2 + 90 / 2
  assert weight_bytes((dataclasses.replace(LAYERS[1], weight_elements=3),)) == 1.5
  assert weight_bytes((dataclasses.replace(LAYERS[0], weight_elements=None),)) is None
  layers = with_activation_bytes(LAYERS)
  assert (cost_name(layers), cost_unit(layers)) == ("activation bytes", "bytes")
  assert (cost_name(LAYERS), cost_unit(LAYERS)) == ("BOPs", "GBOPs")
  assert gbops(layers, bits) == total_activation_bytes(LAYERS, bits)
  assert attainable_range(layers) == (100 + 50 * 3 / 8 + 15, 100 + 50 + 30)


def test_a_table_by_hand_and_its_cheapest_bits_are_not_the_lowest():
  layers = with_table(LAYERS, "latency", "ms", LATENCY, "table.csv")
  assert [layer.cost.values for layer in layers] == [(0.0,), (0.5, 0.75, 0.25), (1.0, 3.0)]
  assert cheapest_bits(layers) == {"first": 8, "a": 8, "b": 4}
  assert attainable_range(layers) == (1.25, 3.75)
  assert gbops(layers, {"first": 8, "a": 4, "b": 8}) == 3.75 and layer_gbops(layers[1], 3) == 0.5
  with pytest.raises(ValueError, match="layer 'a' is at 5 bits"):
    layer_gbops(layers[1], 5)
  # Networks that differ in their costs alone are equal, so that they share their programs.
  assert layers == LAYERS and hash(layers) == hash(LAYERS)


@pytest.mark.parametrize("change, sentence", [
    ({("a", 4, 4): None}, "no value for layer a at 4 activation bits and 4 weight bits; .* candidates, 3, 4, 8"),
    ({("b", 4, None): math.nan}, "t.csv has the value nan for layer b at 4 activation bits; it must be a finite"),
    ({("b", 4, None): math.inf}, "value inf for layer b"), ({("b", 4, None): -1.0}, r"value -1.0 for layer b"),
    ({("c", 4, 4): 1.0}, "t.csv has the layer 'c', which is not one of the network; the layers are first, a, b")])
def test_a_table_that_does_not_fit_is_one_sentence(change, sentence):
  values = {key: value for key, value in (LATENCY | change).items() if value is not None}
  with pytest.raises(UserError, match=sentence):
    with_table(LAYERS, "latency", "ms", values, "t.csv")


def test_the_selection_meets_any_table_and_is_the_best_up_to_the_grid():
  """300 random tables of 4 layers: costs rise, fall and repeat over the bit-widths."""
  rng = np.random.default_rng(0)
  names = [f"layer_{number}" for number in range(4)]
  plain = tuple(LayerCost(name, 1, 1, (2, 3, 4, 8)[:size], 4, "conv", "unsigned") for name, size in zip(
      names, (4, 3, 4, 2), strict=True))
  for _ in range(300):
    values = {(layer.name, bits, None): float(rng.choice([rng.uniform(0, 5), rng.integers(0, 3)]))
              for layer in plain for bits in layer.candidate_bits}
    layers = with_table(plain, "energy", "mJ", values, "random")
    low, high = attainable_range(layers)
    if high == low:
      continue
    alpha = {layer.name: rng.normal(0, 1, len(layer.candidate_bits)) for layer in layers}
    target = float(rng.uniform(low, high))
    selected = select_within_target(layers, alpha, target, 0.999)
    cost = lambda bits, layers=layers: gbops(layers, complete_bits(layers, bits))
    score = lambda bits, layers=layers, alpha=alpha: sum(
        alpha[layer.name][layer.candidate_of(bits[layer.name])] for layer in layers)
    assert cost(selected) <= target
    # The grid rounds each layer's cost up: what fits a target smaller by a cell for each layer is never passed over.
    smaller = target - 4 * (target - low) / 20_000
    best = max((score(bits) for choice in itertools.product(*(layer.candidate_bits for layer in layers))
                if cost(bits := dict(zip(names, choice, strict=True))) <= smaller
                and cost(bits) >= 0.001 * target * (1 + 1e-9)), default=-math.inf)
    assert score(selected) >= best - 1e-9
