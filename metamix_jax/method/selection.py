"""The end of the search (M13): from alpha to one bit-width for each searched layer, at or under the target."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import math
from typing import Any

import numpy as np

from metamix_jax.method.bops import LayerCost, cheapest_bits, choices, complete_bits, cost_unit, gbops, layer_gbops
from metamix_jax.method.pairs import bits_of_pairs, pair_layers, pair_values

# Number of grid steps between the cost of the cheapest assignment and the target. Each layer's cost is rounded up to
# the grid, so the result may leave up to (number of layers / COST_GRID) of that range unused.
COST_GRID = 20_000


def most_probable_bits(layers: Sequence[LayerCost], alpha: Mapping[str, np.ndarray]) -> dict[str, int]:
  """M13 [C]: returns argmax alpha of each searched layer as bits, by layer name; of equal maxima the lowest bits.

  Args:
    layers: every quantised layer.
    alpha: {layer name: [B]} of the searched layers, and of the searched kernels by their names.
  """
  return {name: bits[int(np.argmax(alpha[name]))] for name, bits in choices(layers).items()}


def weights_of_searches(searched_targets: Iterable[float], target_gbops: float) -> dict[float, float]:
  """Returns which searches serve a target that may not have been searched, and with what weight [A].

  Between two searched targets both serve it, each with a weight that falls linearly with the distance in GBOPs. Beyond
  the outermost one, that one alone does. A searched target is served by its own search.

  Args:
    searched_targets: targets in GBOPs of one image, at least one.
    target_gbops: the target to serve.

  Returns:
    {searched target: weight above 0}, ascending; the weights sum to 1.
  """
  searched = list(searched_targets)
  below = max((target for target in searched if target <= target_gbops), default=min(searched))
  above = min((target for target in searched if target >= target_gbops), default=max(searched))
  if below == above:
    return {below: 1.0}
  share = (target_gbops - below) / (above - below)
  return {below: 1 - share, above: share}


def alpha_for_target(
    alpha: Mapping[float, Mapping[str, np.ndarray]], target_gbops: float
) -> dict[str, np.ndarray]:
  """Returns an alpha for a target that may not have been searched, from the alphas of the searched ones [A].

  It is the expected log probability of each candidate under `weights_of_searches`. The selection for the new target
  then maximises the expected log probability of an assignment: a layer on which the two searches agree keeps its bits,
  and where they differ the more decided one counts for more. The alpha of a searched target is returned unchanged.

  Args:
    alpha: {target in GBOPs: {layer name: [B]}}, one entry for each searched target.
    target_gbops: the target to serve, in GBOPs of one image.

  Returns:
    {layer name: [B]}, as `select_within_target` takes it.
  """
  weights = weights_of_searches(alpha, target_gbops)
  first, *others = weights
  if not others:
    return dict(alpha[first])
  return {
      name: np.asarray(sum(weight * log_probabilities(alpha[target][name]) for target, weight in weights.items()))
      for name in alpha[first]}


def select_within_target(
    layers: Sequence[LayerCost], alpha: Mapping[str, np.ndarray], target_gbops: float, tolerance: float
) -> dict[str, int]:
  """Selects the most probable assignment that costs at most the target, and only slightly less [A].

  The straight-through penalty leaves the cost swinging around the target. This function maximises the product of the
  layers' probabilities (M5) subject to (1 - tolerance) * target <= GBOPs <= target: a knapsack problem with one choice
  for each layer. If argmax alpha (M13) satisfies both bounds, it is returned unchanged. If no assignment satisfies
  both, the lower bound is dropped. Where kernels are searched too, the choice for a layer is a pair of bit-widths.

  Args:
    layers: every quantised layer.
    alpha: {layer name: [B]} of the searched layers, and of the searched kernels by their names.
    target_gbops: target in GBOPs of one image.
    tolerance: fraction of the target that may stay unused, from 0 to below 1.

  Returns:
    Bits by name of the searched layer, in network order, and then of the searched kernels.

  Raises:
    ValueError: the cheapest bits cost more than the target.
  """
  if any(layer.candidate_weight_bits for layer in layers):
    pairs = select_within_target(pair_layers(layers), pair_values(layers, alpha), target_gbops, tolerance)
    return bits_of_pairs(layers, pairs)
  most_probable = most_probable_bits(layers, alpha)
  least_gbops = (1 - tolerance) * target_gbops
  if least_gbops <= gbops(layers, complete_bits(layers, most_probable)) <= target_gbops:
    return most_probable
  lowest = cheapest_bits(layers)
  lowest_gbops = gbops(layers, lowest)
  if target_gbops < lowest_gbops:
    raise ValueError(
        f"target_gbops is {target_gbops:.6g}; the cheapest bit-widths already cost {lowest_gbops:.6g} "
        f"{cost_unit(layers)}.")
  for bound in (least_gbops, lowest_gbops):
    for bits in _by_probability(layers, alpha, bound, target_gbops):
      if bound <= gbops(layers, complete_bits(layers, bits)) <= target_gbops:
        return bits
  # The target is so close to the cheapest bits that rounding to the grid hides the difference.
  return {layer.name: lowest[layer.name] for layer in layers if layer.searched}


def in_cells(more_gbops: Any, room: float) -> Any:
  """Turns GBOPs above the cheapest assignment into steps of the grid, of which `room` GBOPs have COST_GRID."""
  return more_gbops / room * COST_GRID


def shifted(values: np.ndarray, cells: int, fill: float) -> np.ndarray:
  """Moves an array of one value for each cell up by a number of cells, 0 or more; `fill` comes before it."""
  return np.concatenate([np.full(min(cells, len(values)), fill), values])[:len(values)]


def _by_probability(layers, alpha, least_gbops, target_gbops) -> Iterator[dict[str, int]]:
  """Yields the best assignment at each grid cost from `least_gbops` on, the most probable assignment first."""
  searched, lowest_gbops = [layer for layer in layers if layer.searched], gbops(layers, cheapest_bits(layers))
  room = target_gbops - lowest_gbops
  if not room:
    return
  # Rounding up adds at most one cell for each layer, so the grid has that many more cells.
  score, steps = _solve_knapsack(searched, alpha, room, COST_GRID + len(searched) + 1)
  first_cell = math.floor(in_cells(least_gbops - lowest_gbops, room))
  reached = np.flatnonzero(np.isfinite(score))
  for cell in reached[np.argsort(-score[reached], kind="stable")]:
    if cell >= first_cell:
      yield _trace_back(steps, int(cell))


def _cells(layer, room):
  """Returns the cost of each candidate above the cheapest one, in grid cells, rounded up."""
  costs = [layer_gbops(layer, bits) for bits in layer.candidate_bits]
  return [math.ceil(in_cells(cost - min(costs), room)) for cost in costs]


def log_probabilities(alpha: np.ndarray) -> np.ndarray:
  """Returns the logarithm of the probabilities of one layer (M5), in float64: [B] -> [B]."""
  values = np.asarray(alpha, np.float64)
  return values - values.max() - math.log(np.exp(values - values.max()).sum())


def _solve_knapsack(searched, alpha, room, num_cells):
  """Finds the highest sum of alpha at each cost, one candidate for each layer, by dynamic programming.

  The logarithm of a probability is alpha less a constant of its layer, which all assignments share.

  Args:
    searched: the layers.
    alpha: {layer name: [B]}; of two assignments with equal sums, the one with fewer bits in the last layer wins.
    room: GBOPs above the cheapest assignment, of which COST_GRID cells are made.
    num_cells: costs from 0 to below `num_cells` are considered.

  Returns:
    (score, steps): score[c] is the highest sum at a cost of exactly c cells, or -inf if no assignment costs c;
    steps has (layer, cells of its candidates, index of its candidate at each cost, given the layers before it).
  """
  score = np.full(num_cells, -np.inf)
  score[0] = 0
  steps = []
  for layer in searched:
    cells, values = _cells(layer, room), np.asarray(alpha[layer.name], np.float64)
    best, indices = np.full(num_cells, -np.inf), np.zeros(num_cells, np.int64)
    for index, (used, value) in enumerate(zip(cells, values, strict=True)):
      total = shifted(score, used, -np.inf) + value
      better = total > best
      best[better], indices[better] = total[better], index
    score = best
    steps.append((layer, cells, indices))
  return score, steps


def _trace_back(steps, cell):
  """Returns the assignment that leads to a cell of the last score, by layer name in network order."""
  bits = {}
  for layer, cells, indices in reversed(steps):
    index = int(indices[cell])
    bits[layer.name] = layer.candidate_bits[index]
    cell -= cells[index]
  return dict(reversed(bits.items()))
