"""M13: from alpha to one bit-width for each layer, at or under the target."""

from collections.abc import Mapping, Sequence
import math

import numpy as np

from metamix_jax.method.bops import LayerCost, gbops

# Grid steps into which the room between the cheapest assignment and the target is divided. A layer's cost is
# rounded up to the grid, so the result can stay below the optimum by at most layers / this of that room.
COST_GRID = 20_000


def most_probable_candidates(alpha: Mapping[str, np.ndarray]) -> dict[str, int]:
  """M13 [C]: argmax alpha of each searched layer; index by layer name. The first of equal maxima is taken."""
  return {name: int(np.argmax(values)) for name, values in alpha.items()}


def select_for_targets(
    layers: Sequence[LayerCost], alpha: Mapping[str, np.ndarray], targets: Sequence[float], tolerance: float
) -> list[dict]:
  """What each budget selects: {"target_gbops", "candidates", "most_probable"}, the last two indices by layer name.

  Args:
    layers: every quantised layer.
    alpha: {layer name: [K, B]} of the searched layers, one row for each target.
    targets: K targets in GBOPs of one image.
    tolerance: as in `settle_candidates`.
  """
  selections = []
  for index, target in enumerate(targets):
    of_target = {name: values[index] for name, values in alpha.items()}
    selections.append({
        "target_gbops": target, "candidates": settle_candidates(layers, of_target, target, tolerance),
        "most_probable": most_probable_candidates(of_target)})
  return selections


def settle_candidates(
    layers: Sequence[LayerCost], alpha: Mapping[str, np.ndarray], target_gbops: float, tolerance: float
) -> dict[str, int]:
  """The most probable assignment that costs no more than the target, and hardly less [A].

  The straight-through penalty leaves the cost hovering about the target. Here the product of the layers'
  probabilities (M5) is maximised subject to (1 - tolerance) * target <= GBOPs <= target, a knapsack with one choice
  for each layer, solved by dynamic programming on a cost grid. Where argmax alpha (M13) fits already, it is returned
  unchanged. Where no assignment lies in that window, the lower bound is dropped.

  Args:
    layers: every quantised layer.
    alpha: {layer name: [B]} of the searched layers.
    target_gbops: of one image.
    tolerance: fraction of the target that may stay unused, 0 up to 1.

  Returns:
    Candidate index by layer name, searched layers only.

  Raises:
    ValueError: even the lowest bit-widths cost more than the target.
  """
  most_probable = most_probable_candidates(alpha)
  least_gbops = (1 - tolerance) * target_gbops
  if least_gbops <= _cost(layers, most_probable) <= target_gbops:
    return most_probable
  searched = [layer for layer in layers if layer.searched]
  lowest = _cost(layers, {layer.name: 0 for layer in searched})
  room = target_gbops - lowest
  if room < 0:
    raise ValueError(f"target_gbops is {target_gbops:.6g}; the lowest bit-widths already cost {lowest:.6g} GBOPs.")

  def cells(layer, candidate):
    """Grid cells that a candidate costs above the layer's lowest one."""
    extra = layer.macs * layer.weight_bits * (layer.candidate_bits[candidate] - layer.candidate_bits[0]) / 1e9
    return math.ceil(extra / room * COST_GRID) if extra else 0

  # score[c]: highest log-probability of the layers so far at a cost of exactly c cells. A cell count overstates a
  # cost by less than one cell a layer, so the grid is that much longer than the room.
  num_cells = COST_GRID + len(searched) + 1
  score = np.full(num_cells, -np.inf)
  score[0] = 0
  choices = []
  for layer in searched:
    values = np.asarray(alpha[layer.name], np.float64)
    log_probability = values - values.max() - math.log(np.exp(values - values.max()).sum())
    best, choice = np.full(num_cells, -np.inf), np.zeros(num_cells, np.int64)
    for candidate in range(len(layer.candidate_bits)):
      used = cells(layer, candidate)
      if used >= num_cells:
        continue
      option = np.full(num_cells, -np.inf)
      option[used:] = score[:num_cells - used] + log_probability[candidate]
      better = option > best
      best[better], choice[better] = option[better], candidate
    score = best
    choices.append(choice)

  def assignment(cell):
    """The candidates behind a cell of the last score, from the last layer to the first."""
    chosen = {}
    for layer, choice in zip(reversed(searched), reversed(choices), strict=True):
      chosen[layer.name] = int(choice[cell])
      cell -= cells(layer, chosen[layer.name])
    return {layer.name: chosen[layer.name] for layer in searched}

  def first_within(lower_gbops):
    """The most probable assignment between a cost and the target, or None."""
    first_cell = max(0, math.floor((lower_gbops - lowest) / room * COST_GRID)) if room else 0
    for cell in np.argsort(-score, kind="stable"):
      if cell >= first_cell and np.isfinite(score[cell]):
        chosen = assignment(int(cell))
        if lower_gbops <= _cost(layers, chosen) <= target_gbops:
          return chosen
    return None

  return first_within(least_gbops) or first_within(lowest)


def bits_of(layers: Sequence[LayerCost], candidates: Mapping[str, int]) -> dict[str, int]:
  """Bits of every quantised layer, in network order, from the candidate index of each searched one."""
  return {
      layer.name: layer.candidate_bits[candidates[layer.name] if layer.searched else 0] for layer in layers
  }


def _cost(layers: Sequence[LayerCost], candidates: Mapping[str, int]) -> float:
  return gbops(layers, bits_of(layers, candidates))
