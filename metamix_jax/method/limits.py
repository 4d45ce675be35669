"""Several constraints at once on an assignment of bits: the target, and limits on other costs [A]."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, sparse

from metamix_jax.method.bops import LayerCost, complete_bits, gbops, layer_gbops, lowest_bits
from metamix_jax.method.costs import activation_bytes
from metamix_jax.method.selection import log_probabilities

# The solver lets a limit be passed by this share of it; what passes it is solved again, this much below the limit.
SOLVER_TOLERANCE = 1e-6
# The solver stops where nothing can be better by more than this share of the best sum of logarithms.
RELATIVE_GAP = 1e-9
# Nodes of the search tree after which the solver gives up the least cost. With a tolerance of 3 % or 0.5 % it needs a
# few; with 0 it would have to find a cost that equals the target, perhaps among all assignments.
MOST_NODES = 10_000


class Limit(NamedTuple):
  """Holds the most that an assignment may cost.

  Attributes:
    layers: every quantised layer, with the cost that is limited (records.cost_tables.with_costs).
    most: in the unit of that cost, above 0.
  """

  layers: tuple[LayerCost, ...]
  most: float


class Settlement(NamedTuple):
  """Holds the result of `select_within_limits`.

  Attributes:
    bits: by name of the searched layer, in network order.
    gap: no assignment within the limits has a logarithm of its probability higher by more than this, in nats; except
      those that come closer to a limit than SOLVER_TOLERANCE of it.
  """

  bits: dict[str, int]
  gap: float


def select_within_limits(
    layers: Sequence[LayerCost], alpha: Mapping[str, np.ndarray], target: float, tolerance: float,
    limits: Sequence[Limit], peak_bytes: float = np.inf,
) -> Settlement | None:
  """Selects the most probable assignment within a target and further limits, all of them kept exactly.

  As `selection.select_within_target` it spends at least (1 - tolerance) of the target where some assignment can, and
  the solver finds one within MOST_NODES. It is an integer program with one choice for each layer, which scipy's HiGHS
  solves by branch and bound.

  Args:
    layers: every quantised layer, with the cost of the target.
    alpha: {layer name: [B]} of the searched layers.
    target: in the unit of that cost, above 0.
    tolerance: fraction of the target that may stay unused.
    limits: on further costs of the same layers.
    peak_bytes: the most bytes of one image that the input of any layer may have.

  Returns:
    The settlement; None if no assignment keeps all limits.
  """
  searched = [layer for layer in layers if layer.searched]
  lowest = lowest_bits(layers)
  if any(activation_bytes(layer, lowest[layer.name]) > peak_bytes for layer in layers if not layer.searched):
    return None
  rows = [Limit(tuple(layers), target), *limits]
  allowed = np.concatenate([
      [activation_bytes(layer, bits) <= peak_bytes for bits in layer.candidate_bits] for layer in searched])
  values = np.concatenate([log_probabilities(alpha[layer.name]) for layer in searched])
  settled = _solve(searched, values, allowed, rows, (1 - tolerance) * target, {"node_limit": MOST_NODES})
  return settled or _solve(searched, values, allowed, rows, -np.inf)


def _solve(searched, values, allowed, rows, least, options=None):
  """Solves the integer program, and again a little below each limit that the solver's tolerance let it pass."""
  shrink = np.ones(len(rows))
  sizes = [len(layer.candidate_bits) for layer in searched]
  one_each = sparse.csr_array((np.ones(len(values)), (np.repeat(np.arange(len(sizes)), sizes), np.arange(len(values)))))
  candidates = [(layer.name, bits) for layer in searched for bits in layer.candidate_bits]
  matrix = np.array([_costs(row, candidates) for row in rows])
  fixed = np.array([_fixed_cost(row) for row in rows])
  most = np.array([row.most for row in rows])
  while True:
    result = optimize.milp(
        -values, integrality=np.ones(len(values)), bounds=optimize.Bounds(0, allowed.astype(float)),
        constraints=[
            optimize.LinearConstraint(one_each, 1, 1),
            optimize.LinearConstraint(
                matrix / most[:, None], [(least - fixed[0]) / most[0], *[-np.inf] * (len(rows) - 1)],
                shrink - fixed / most)],
        options={"mip_rel_gap": RELATIVE_GAP} | (options or {}))
    if result.x is None:
      return None
    # An entry is 1 for the candidate that is chosen and 0 for the others, up to rounding.
    bits = dict(candidates[index] for index in np.flatnonzero(np.round(result.x)))
    passed = np.array([
        gbops(row.layers, complete_bits(row.layers, bits)) > row.most for row in rows])
    if not passed.any():
      return Settlement(bits, max(0.0, float(result.fun - result.mip_dual_bound)))
    shrink = np.where(passed, shrink - SOLVER_TOLERANCE, shrink)


def _costs(row, candidates):
  """Returns the cost of every candidate, (layer name, bits), float64 [candidates]."""
  by_name = {layer.name: layer for layer in row.layers}
  return np.array([layer_gbops(by_name[name], bits) for name, bits in candidates])


def _fixed_cost(row):
  """Returns the cost of the layers that are not searched."""
  return float(gbops([layer for layer in row.layers if not layer.searched], lowest_bits(row.layers)))
