"""Selection within a target on any small network, against all assignments."""

import itertools

from hypothesis import assume, given
from hypothesis import strategies as st
import numpy as np
import pytest

from metamix_jax.method.bops import LayerCost, attainable_range, complete_bits, gbops, lowest_bits
from metamix_jax.method.selection import COST_GRID, most_probable_bits, select_within_target
from tests.helpers import properties  # noqa: F401

CANDIDATES = st.lists(st.integers(2, 8), min_size=2, max_size=4, unique=True).map(lambda bits: tuple(sorted(bits)))


@st.composite
def searches(draw):
  """(layers, alpha): one to four searched layers of any cost and candidates, one that is not searched, any alpha."""
  layers, alpha = [LayerCost("fixed", draw(st.integers(0, 10**6)), 10, (8,), 8, "conv", "signed")], {}
  for index in range(draw(st.integers(1, 4))):
    bits = draw(CANDIDATES)
    layers.append(LayerCost(
        f"layer_{index}", draw(st.integers(1, 10**7)), 10, bits, draw(st.integers(2, 8)), "conv", "unsigned"))
    # Numbers with distance: of assignments that are equally probable, either may be taken.
    values = draw(st.lists(st.integers(-40, 40), min_size=len(bits), max_size=len(bits)))
    alpha[f"layer_{index}"] = np.array(values, np.float32) / 8
  return tuple(layers), alpha


def log_probability(layers, alpha, bits):
  total = 0.0
  for layer in layers:
    if layer.searched:
      values = alpha[layer.name].astype(np.float64)
      total += values[layer.candidate_bits.index(bits[layer.name])] - np.log(np.exp(values).sum())
  return total


def assignments(layers):
  searched = [layer for layer in layers if layer.searched]
  for choice in itertools.product(*(layer.candidate_bits for layer in searched)):
    yield {layer.name: bits for layer, bits in zip(searched, choice, strict=True)}


@given(searches(), st.floats(0, 1), st.floats(0, 0.9))
def test_no_assignment_in_the_window_is_more_probable(search, position, tolerance):
  layers, alpha = search
  low, high = attainable_range(layers)
  target = low + position * (high - low)
  cost = lambda bits: gbops(layers, complete_bits(layers, bits))
  score = lambda bits: log_probability(layers, alpha, bits)
  selected, argmax = select_within_target(layers, alpha, target, tolerance), most_probable_bits(layers, alpha)
  assert list(selected) == [layer.name for layer in layers if layer.searched]
  assert cost(selected) <= target * (1 + 1e-12)
  least = (1 - tolerance) * target
  if least <= cost(argmax) <= target:
    assert selected == argmax
    return
  # What the grid rounds away: a cell for each layer, at each end.
  grain = (target - low) * (len(layers) + 1) / COST_GRID
  fitting = [bits for bits in assignments(layers) if cost(bits) <= target - grain]
  in_window = [bits for bits in fitting if cost(bits) >= least + grain]
  if in_window:
    assert cost(selected) >= least
    assert score(selected) >= max(map(score, in_window)) - 1e-9
  elif cost(selected) < least and fitting:
    assert score(selected) >= max(map(score, fitting)) - 1e-9


@given(searches())
def test_the_cheapest_target_selects_the_cheapest_bits(search):
  layers, alpha = search
  low, high = attainable_range(layers)
  cheapest = {layer.name: lowest_bits(layers)[layer.name] for layer in layers if layer.searched}
  assert select_within_target(layers, alpha, low, 0.0) == cheapest
  assert select_within_target(layers, alpha, high, 1 - 1e-9) == most_probable_bits(layers, alpha)
  below = low * (1 - 1e-6) - 1e-12
  assume(below > 0)
  with pytest.raises(ValueError, match="the cheapest bit-widths already cost"):
    select_within_target(layers, alpha, below, 0.0)
