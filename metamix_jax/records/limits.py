"""Limits on costs besides the target's, as a user writes them: COST=VALUE (docs/costs.md)."""

from collections.abc import Mapping, Sequence
import dataclasses
import math

import numpy as np

from metamix_jax.errors import UserError
from metamix_jax.method.bops import LayerCost, attainable_range, cost_name, cost_unit, gbops, in_bops, lowest_bits
from metamix_jax.method.costs import peak_activation_bytes
from metamix_jax.method.limits import Limit, select_within_limits
from metamix_jax.method.selection import select_within_target
from metamix_jax.records.cost_tables import with_costs
from metamix_jax.records.kept_limits import KeptLimit
from metamix_jax.records.names import format_target

# The cost that is no sum over the layers: the bytes of the largest input of a layer.
PEAK = "peak_activation_bytes"


@dataclasses.dataclass(frozen=True)
class Limits:
  """Holds every limit besides the target.

  Attributes:
    sums: limits on the cost of all layers together.
    peak_bytes: the most bytes that the input of one layer may have; infinite for no such limit.
    field: names in errors where a user wrote the limits.
  """

  sums: tuple[Limit, ...] = ()
  peak_bytes: float = math.inf
  field: str = "config.arch.at_most"

  def __bool__(self) -> bool:
    """Tells whether there is any limit."""
    return bool(self.sums) or self.peak_bytes < math.inf

  def kept_by(self, layers: Sequence[LayerCost], bits: Mapping[str, int]) -> tuple[KeptLimit, ...]:
    """Returns each limit with the cost of bits of every layer."""
    kept = [
        KeptLimit(cost_name(limit.layers), cost_unit(limit.layers), limit.most, gbops(limit.layers, bits))
        for limit in self.sums]
    if self.peak_bytes < math.inf:
      kept.append(KeptLimit("peak activation bytes", "bytes", self.peak_bytes, peak_activation_bytes(layers, bits)))
    return tuple(kept)

  def select(
      self, layers: Sequence[LayerCost], alpha: Mapping[str, np.ndarray], target: float, tolerance: float
  ) -> dict[str, int]:
    """Selects the most probable bits within a target and all limits, by name of the searched layer.

    Args:
      layers: every quantised layer, with the cost of the target.
      alpha: {layer name: [B]} of the searched layers.
      target: in the unit of that cost, not below the cheapest bits.
      tolerance: fraction of the target that may stay unused.

    Raises:
      UserError: no assignment keeps all of them.
    """
    if not self:
      return select_within_target(layers, alpha, target, tolerance)
    settled = select_within_limits(layers, alpha, target, tolerance, self.sums, self.peak_bytes)
    if settled is None:
      raise UserError(
          f"no assignment of bits keeps the target {format_target(target)} and every limit of {self.field}; the least "
          f"that each cost can be alone is {self._alone(layers, target)}.")
    return settled.bits

  def check(self, layers: Sequence[LayerCost], target: float) -> None:
    """Raises UserError if no assignment keeps a target and all limits, whatever a search may find."""
    if self:
      equal = {layer.name: np.zeros(len(layer.candidate_bits)) for layer in layers if layer.searched}
      self.select(layers, equal, target, 1.0)  # All of the target may stay unused: any assignment below it will do.

  def _alone(self, layers, target):
    """Returns the least of each cost in words."""
    least = [
        f"{cost_name(limit.layers)} {attainable_range(limit.layers)[0]:.6g} of {limit.most:.6g} "
        f"{cost_unit(limit.layers)}" for limit in (Limit(tuple(layers), target), *self.sums)]
    if self.peak_bytes < math.inf:
      peak = peak_activation_bytes(layers, lowest_bits(layers))
      least.append(f"peak activation bytes {peak:.6g} of {self.peak_bytes:.6g} bytes")
    return "; ".join(least)


def read_limits(layers: Sequence[LayerCost], words: Sequence[str], field: str) -> Limits:
  """Reads limits as a user writes them.

  Args:
    layers: every quantised layer.
    words: "COST=VALUE" each, with "bops", "activation_bytes", "peak_activation_bytes" or the path of a CSV file.
    field: names in errors where they stand.

  Raises:
    UserError: one of them is wrong, or its file does not fit the layers; or bits of weights are searched, of which
      further limits know nothing.
  """
  sums, peak_bytes = [], math.inf
  if words and any(layer.candidate_weight_bits for layer in layers):
    raise UserError(
        f"{field} has {words[0]!r}, and config.quantization.candidate_weight_bits is not None; further limits are "
        "allowed only where bits of activations alone are searched.")
  for text in words:
    cost, _, value = text.rpartition("=")
    try:
      most = float(value)
    except ValueError:
      most = math.nan
    if not cost or not 0 < most < math.inf:
      raise UserError(f"{field} has {text!r}; it must be COST=VALUE, with a finite number above 0.")
    if cost == PEAK:
      peak_bytes = min(peak_bytes, most)
    else:
      sums.append(Limit(with_costs(cost, in_bops(layers), field), most))
  return Limits(tuple(sums), peak_bytes, field)
