"""M13: from alpha to one bit-width for each layer, at or under the target, and the file that keeps it."""

from collections.abc import Mapping, Sequence
import json
import math
import pathlib

import numpy as np

from metamix_jax.bops import LayerCost, gbops

# Grid steps into which the room between the cheapest assignment and the target is divided. A layer's cost is
# rounded up to the grid, so the result can stay below the optimum by at most layers / this of that room.
COST_GRID = 20_000


def most_probable_candidates(alpha: Mapping[str, np.ndarray]) -> dict[str, int]:
  """M13 [C]: argmax alpha of each searched layer; index by layer name. The first of equal maxima is taken."""
  return {name: int(np.argmax(values)) for name, values in alpha.items()}


def settle_candidates(
    layers: Sequence[LayerCost], alpha: Mapping[str, np.ndarray], target_gbops: float
) -> dict[str, int]:
  """The most probable assignment that costs no more than the target [A].

  The straight-through penalty leaves the cost hovering about the target. Here the product of the layers'
  probabilities (M5) is maximised subject to GBOPs <= target, a knapsack with one choice for each layer, solved
  by dynamic programming on a cost grid. Where argmax alpha (M13) fits already, it is returned unchanged.

  Args:
    layers: every quantised layer.
    alpha: {layer name: [B]} of the searched layers.
    target_gbops: of one image.

  Returns:
    Candidate index by layer name, searched layers only.

  Raises:
    ValueError: even the lowest bit-widths cost more than the target.
  """
  most_probable = most_probable_candidates(alpha)
  if _cost(layers, most_probable) <= target_gbops:
    return most_probable
  searched = [layer for layer in layers if layer.searched]
  lowest = _cost(layers, {layer.name: 0 for layer in searched})
  room = target_gbops - lowest
  if room < 0:
    raise ValueError(f"target_gbops is {target_gbops:.6g}; the lowest bit-widths already cost {lowest:.6g} GBOPs.")

  score = np.zeros(COST_GRID + 1)
  choices = []
  for layer in searched:
    values = np.asarray(alpha[layer.name], np.float64)
    log_probability = values - values.max() - math.log(np.exp(values - values.max()).sum())
    best, choice = np.full(COST_GRID + 1, -np.inf), np.zeros(COST_GRID + 1, np.int64)
    for candidate, bits in enumerate(layer.candidate_bits):
      extra = layer.macs * layer.weight_bits * (bits - layer.candidate_bits[0]) / 1e9
      cells = math.ceil(extra / room * COST_GRID) if extra else 0
      if cells > COST_GRID:
        continue
      option = np.full(COST_GRID + 1, -np.inf)
      option[cells:] = score[:COST_GRID + 1 - cells] + log_probability[candidate]
      better = option > best
      best[better], choice[better] = option[better], candidate
    score = best
    choices.append(choice)

  settled, cell = {}, COST_GRID
  for layer, choice in zip(reversed(searched), reversed(choices), strict=True):
    candidate = int(choice[cell])
    settled[layer.name] = candidate
    extra = layer.macs * layer.weight_bits * (layer.candidate_bits[candidate] - layer.candidate_bits[0]) / 1e9
    cell -= math.ceil(extra / room * COST_GRID) if extra else 0
  return {layer.name: settled[layer.name] for layer in searched}


def bits_of(layers: Sequence[LayerCost], candidates: Mapping[str, int]) -> dict[str, int]:
  """Bits of every quantised layer, in network order, from the candidate index of each searched one."""
  return {
      layer.name: layer.candidate_bits[candidates[layer.name] if layer.searched else 0] for layer in layers
  }


def write_selected_bits(path: pathlib.Path, layers: Sequence[LayerCost], candidates: Mapping[str, int]) -> None:
  """Writes {"selected": {layer name: bits}} of the searched layers as JSON."""
  bits = {layer.name: layer.candidate_bits[candidates[layer.name]] for layer in layers if layer.searched}
  path.write_text(json.dumps({"selected": bits}, indent=2) + "\n")


def read_selected_bits(path: str, layers: Sequence[LayerCost]) -> dict[str, int]:
  """Candidate index by layer name from a file of `write_selected_bits`.

  Raises:
    ValueError: the file is missing, is no such JSON, or does not fit the searched layers and their bits.
  """
  try:
    selected = json.loads(pathlib.Path(path).read_text())["selected"]
    items = dict(selected)
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise ValueError(
        f"config.bits_from={path} cannot be read ({type(error).__name__}: {error}); it must be a selected_bits.json "
        "of an earlier run.") from error
  searched = {layer.name: layer for layer in layers if layer.searched}
  if set(items) != set(searched):
    odd = sorted(set(items) ^ set(searched))[0]
    raise ValueError(
        f"config.bits_from={path} does not fit this network: layer {odd!r} is "
        f"{'unknown' if odd in items else 'missing'}; it must name its {len(searched)} searched layers.")
  for name, bits in items.items():
    if bits not in searched[name].candidate_bits:
      raise ValueError(
          f"config.bits_from={path} gives layer {name!r} {bits!r} bits; allowed are {searched[name].candidate_bits}.")
  return {name: layer.candidate_bits.index(items[name]) for name, layer in searched.items()}


def _cost(layers: Sequence[LayerCost], candidates: Mapping[str, int]) -> float:
  return gbops(layers, bits_of(layers, candidates))
