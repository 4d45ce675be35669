"""Pairs of bit-widths of inputs and kernels: what they cost, and their selection against all assignments."""

import itertools

import numpy as np
import pytest

from metamix_jax.method.bops import (
    LayerCost,
    attainable_range,
    cheapest_bits,
    choices,
    complete_bits,
    gbops,
    layer_gbops,
    uniform_bits,
)
from metamix_jax.method.pairs import bits_of_pairs, pair_layers, pair_values, pairs_of
from metamix_jax.method.selection import log_probabilities, most_probable_bits, select_within_target

LAYERS = (
    LayerCost("first", 10**9, 80, (8,), 8, "conv", "signed"),  # 64 GBOPs.
    LayerCost("a", 2 * 10**9, 16, (3, 4, 8), 4, "conv", "unsigned", candidate_weight_bits=(2, 4, 8)),
    LayerCost("b", 10**9, 32, (4, 8), 4, "conv", "unsigned", candidate_weight_bits=(4, 8)),
    LayerCost("c", 10**9, 32, (3, 8), 4, "conv", "unsigned"))


def test_costs_by_hand():
  assert choices(LAYERS) == {
      "a": (3, 4, 8), "b": (4, 8), "c": (3, 8), "a/kernel": (2, 4, 8), "b/kernel": (4, 8)}
  assert layer_gbops(LAYERS[1], 3) == 24 and layer_gbops(LAYERS[1], 3, 8) == 48
  bits = complete_bits(LAYERS, {"a": 3, "b": 8, "c": 3, "a/kernel": 2, "b/kernel": 8})
  assert bits == {"first": 8, "a": 3, "b": 8, "c": 3, "a/kernel": 2, "b/kernel": 8}
  assert gbops(LAYERS, bits) == 64 + 2 * 3 * 2 + 8 * 8 + 3 * 4
  # Without bits of their own, kernels have those of the config.
  assert complete_bits(LAYERS, {"a": 3, "b": 8, "c": 3})["a/kernel"] == 4
  assert gbops(LAYERS, uniform_bits(LAYERS, 8)) == 64 + 64 + 32 + 32
  assert cheapest_bits(LAYERS) == {"first": 8, "a": 3, "b": 4, "c": 3, "a/kernel": 2, "b/kernel": 4}
  assert attainable_range(LAYERS) == (64 + 12 + 16 + 12, 64 + 128 + 64 + 32)


def test_pairs_by_hand():
  assert pairs_of(LAYERS[1]) == [(3, 2), (3, 4), (3, 8), (4, 2), (4, 4), (4, 8), (8, 2), (8, 4), (8, 8)]
  assert pairs_of(LAYERS[3]) == [(3, None), (8, None)] and pairs_of(LAYERS[0]) == [(8, None)]
  first, a, b, c = pair_layers(LAYERS)
  assert (first.cost.values, b.cost.values, c.cost.values) == ((64,), (16, 32, 32, 64), (12, 32))
  assert a.candidate_bits == tuple(range(9)) and a.cost.values == (12, 24, 48, 16, 32, 64, 32, 64, 128)
  assert not any(layer.candidate_weight_bits for layer in (first, a, b, c))
  values = pair_values(LAYERS, {
      "a": [0.0, 1.0, 2.0], "a/kernel": [0.0, 10.0, 20.0], "b": [0.0, 1.0], "b/kernel": [5.0, 0.0], "c": [3.0, 4.0]})
  assert {name: array.tolist() for name, array in values.items()} == {
      "a": [0, 10, 20, 1, 11, 21, 2, 12, 22], "b": [5, 0, 6, 1], "c": [3, 4]}
  assert bits_of_pairs(LAYERS, {"a": 5, "b": 2, "c": 0}) == {
      "a": 4, "b": 8, "c": 3, "a/kernel": 8, "b/kernel": 4}


@pytest.mark.parametrize("seed", range(20))
def test_the_selection_is_the_most_probable_of_all_assignments(seed):
  rng = np.random.default_rng(seed)
  alpha = {name: rng.normal(size=len(bits)) for name, bits in choices(LAYERS).items()}
  low, high = attainable_range(LAYERS)
  target = rng.uniform(low, high)
  selected = select_within_target(LAYERS, alpha, target, 0.999)
  assert list(selected) == list(choices(LAYERS)) and gbops(LAYERS, complete_bits(LAYERS, selected)) <= target

  def value(bits):
    return sum(log_probabilities(alpha[name])[choices(LAYERS)[name].index(width)] for name, width in bits.items())

  every = (dict(zip(choices(LAYERS), widths, strict=True)) for widths in itertools.product(*choices(LAYERS).values()))
  best = max(value(bits) for bits in every if gbops(LAYERS, complete_bits(LAYERS, bits)) <= target)
  assert value(selected) == pytest.approx(best)
  assert select_within_target(LAYERS, alpha, high, 0.999) == most_probable_bits(LAYERS, alpha)
