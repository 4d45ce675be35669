"""Assignments of bits without a search, the baselines of a search: random ones, sensitivity, local search [A]."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import functools
import itertools
import math

import numpy as np

from metamix_jax.method.bops import LayerCost, cheapest_bits, complete_bits, cost_unit, gbops, layer_gbops
from metamix_jax.method.selection import COST_GRID, in_cells, select_within_target, shifted

Bits = dict[str, int]


def draw_assignments(
    layers: Sequence[LayerCost], least_gbops: float, most_gbops: float, number: int, rng: np.random.Generator
) -> list[Bits]:
  """Draws assignments uniformly from all those whose cost lies within two bounds, with replacement.

  A table counts the assignments of each cost on a grid, by dynamic programming; a draw walks back through it, and each
  assignment in the table is equally likely. Costs are rounded down to the grid, so the table covers slightly more than
  the bounds allow. Assignments outside the exact bounds are drawn again, which leaves those within equally likely. The
  counts are float64: exact to 2^53, and to a relative 1e-14 beyond.

  Args:
    layers: every quantised layer.
    least_gbops: lowest cost in GBOPs of one image.
    most_gbops: highest cost in GBOPs of one image.
    number: of assignments.
    rng: the source of everything random.

  Returns:
    Bits by name of the searched layer, in network order.

  Raises:
    ValueError: no assignment has such a cost.
  """
  searched = [layer for layer in layers if layer.searched]
  lowest = cheapest_bits(layers)
  lowest_gbops, unit = gbops(layers, lowest), cost_unit(layers)
  if least_gbops <= lowest_gbops == most_gbops:
    return [{layer.name: lowest[layer.name] for layer in searched} for _ in range(number)]
  room, nothing = most_gbops - lowest_gbops, f"no assignment costs from {least_gbops:.6g} to {most_gbops:.6g} {unit}."
  if room <= 0:
    raise ValueError(nothing)
  first = max(0, math.floor(in_cells(least_gbops - lowest_gbops, room)) - len(searched))
  weights, steps = _count_assignments(searched, room, COST_GRID + 1)
  weights[:first] = 0
  if not weights.any():
    raise ValueError(nothing)

  def draw_within() -> Bits:
    for _ in range(COST_GRID):
      bits = _draw(steps, weights, rng)
      if least_gbops <= gbops(layers, complete_bits(layers, bits)) <= most_gbops:
        return bits
    raise ValueError(f"no assignment was found that costs from {least_gbops:.6g} to {most_gbops:.6g} {unit}.")

  return [draw_within() for _ in range(number)]


def assign_by_sensitivity(
    layers: Sequence[LayerCost], losses: Mapping[str, Sequence[float]], target_gbops: float, tolerance: float
) -> Bits:
  """Assigns bits by the loss of each layer's candidates, one layer changed at a time.

  The sum of the layers' losses is least under the target, as `select_within_target` makes a sum of logarithms of
  probabilities highest: a knapsack problem.

  Args:
    layers: every quantised layer.
    losses: {layer name: [B]}, the loss in nats of a network in which this layer alone takes each candidate.
    target_gbops: target in GBOPs of one image.
    tolerance: fraction of the target that may stay unused.

  Returns:
    Bits by name of the searched layer, in network order.

  Raises:
    ValueError: the lowest bits cost more than the target.
  """
  return select_within_target(
      layers, {name: -np.asarray(values, np.float64) for name, values in losses.items()}, target_gbops, tolerance)


def neighbours(layers: Sequence[LayerCost], bits: Mapping[str, int], most_gbops: float) -> Iterator[Bits]:
  """Yields every assignment within a cost that differs in one layer, or in two of which one rises and one falls.

  Layers move by one candidate. The order is the network's; shuffle it before use.

  Args:
    layers: every quantised layer.
    bits: of each searched layer.
    most_gbops: highest cost in GBOPs of one image.
  """
  single, falls = [], []
  for layer in layers:
    if layer.searched:
      index = layer.candidate_of(bits[layer.name])
      lower = [{layer.name: other} for other in layer.candidate_bits[:index][-1:]]
      single += lower + [{layer.name: other} for other in layer.candidate_bits[index + 1:][:1]]
      falls += lower
  pairs = (
      one | other for one, other in itertools.combinations(single, 2)
      if one.keys() != other.keys() and (one in falls) != (other in falls))
  for change in itertools.chain(single, pairs):
    changed = dict(bits) | change
    if gbops(layers, complete_bits(layers, changed)) <= most_gbops:
      yield changed


def search_locally(
    layers: Sequence[LayerCost], start: Mapping[str, int], most_gbops: float, loss_of: Callable[[Bits], float],
    num_evaluations: int, rng: np.random.Generator
) -> Bits:
  """Improves an assignment by the first of its `neighbours`, in random order, that has a lower loss; then by the next.

  Args:
    layers: every quantised layer.
    start: bits of each searched layer.
    most_gbops: highest cost in GBOPs of one image.
    loss_of: returns the loss of an assignment; called at most `num_evaluations` times, the start included.
    num_evaluations: the budget.
    rng: the source of the order.

  Returns:
    The best assignment that was evaluated.
  """
  best, best_loss = dict(start), loss_of(dict(start))
  left = num_evaluations - 1
  improved = True
  while improved:
    improved = False
    candidates = list(neighbours(layers, best, most_gbops))
    for index in rng.permutation(len(candidates)):
      if not left:
        return best
      left -= 1
      loss = loss_of(candidates[index])
      if loss < best_loss:
        best, best_loss, improved = candidates[index], loss, True
        break
  return best


def _cells_rounded_down(layer, room):
  """Returns the cost of each candidate above the cheapest one, in grid cells."""
  costs = [layer_gbops(layer, bits) for bits in layer.candidate_bits]
  return [math.floor(in_cells(cost - min(costs), room)) for cost in costs]


def _count_assignments(searched, room, num_cells):
  """Counts assignments by dynamic programming.

  Returns:
    (counts, steps): the number of assignments at each cost, float64 [num_cells]; steps has (layer, cells of its
    candidates, such counts of the layers before it).
  """
  counts, steps = np.zeros(num_cells), []
  counts[0] = 1
  for layer in searched:
    cells = _cells_rounded_down(layer, room)
    steps.append((layer, cells, counts))
    counts = functools.reduce(np.add, (shifted(counts, used, 0.0) for used in cells))
  return counts, steps


def _draw(steps, weights, rng):
  """Draws a cost by `weights`, then the layers' candidates that lead to it, from the last layer to the first."""
  cell = int(rng.choice(len(weights), p=weights / weights.sum()))
  bits = {}
  for layer, cells, before in reversed(steps):
    ways = np.array([before[cell - used] if used <= cell else 0.0 for used in cells])
    option = int(rng.choice(len(ways), p=ways / ways.sum()))
    bits[layer.name] = layer.candidate_bits[option]
    cell -= cells[option]
  return dict(reversed(bits.items()))
