"""Further limits in the bit search: each has a multiplier, which grows while the selection passes it [A]."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from flax import struct
from jax import Array
import jax.numpy as jnp

from metamix_jax.method.bit_mixture import straight_through_selection
from metamix_jax.method.bops import LayerCost, cost_name, layer_gbops
from metamix_jax.method.costs import activation_bytes
from metamix_jax.method.losses import limit_penalty, next_multiplier
from metamix_jax.records.limits import PEAK, Limits


class SearchLimit(struct.PyTreeNode):
  """Holds one limit of an architecture state.

  Attributes:
    shares: {layer name: [B]} of every layer, float32: what each candidate costs, as a share of the limit. Of the peak,
      which is no sum, it is what the candidate passes the limit by: with a sum of 0 no layer passes it.
    most: the sum of the shares that keeps the limit, float32 scalar: 1, or 0 for the peak.
    multiplier: in nats, float32 scalar, 0 or more.
    learning_rate: of the multiplier, float32 scalar.
  """

  shares: dict[str, Array]
  most: Array
  multiplier: Array
  learning_rate: Array

  def excess(self, alpha: Mapping[str, Array]) -> Array:
    """Returns the share by which the hard selection passes the limit, with the gradient of the softmax (M7)."""
    return jnp.sum(jnp.stack([
        straight_through_selection(alpha[name]) @ shares if name in alpha else shares[0]
        for name, shares in self.shares.items()])) - self.most

  def after_step(self, alpha: Mapping[str, Array]) -> "SearchLimit":
    """Returns the limit with its next multiplier; `alpha` is that of the step."""
    return self.replace(multiplier=next_multiplier(self.multiplier, self.excess(alpha), self.learning_rate))


# {name of the cost: SearchLimit}; {} without limits, and then the search is that of M11 alone.
SearchLimits: TypeAlias = dict[str, SearchLimit]


def create_search_limits(layers: Sequence[LayerCost], limits: Limits, learning_rate: float) -> SearchLimits:
  """Creates the limits of an architecture state, with multipliers of 0.

  Args:
    layers: every quantised layer.
    limits: of the config.
    learning_rate: of the multipliers, nats for an excess of 1 in one step.
  """
  tables = {}
  for limit in limits.sums:
    name = cost_name(limit.layers).replace(" ", "_")
    tables[name if name not in tables else f"{name}_{len(tables)}"] = {
        layer.name: [layer_gbops(layer, bits) / limit.most for bits in layer.candidate_bits]
        for layer in limit.layers}, 1.0
  if limits.peak_bytes < float("inf"):
    passed_by = lambda layer, bits: max(0.0, activation_bytes(layer, bits) / limits.peak_bytes - 1)
    tables[PEAK] = {layer.name: [passed_by(layer, bits) for bits in layer.candidate_bits] for layer in layers}, 0.0
  return {
      name: SearchLimit(
          {layer: jnp.array(values, jnp.float32) for layer, values in shares.items()}, jnp.float32(most),
          jnp.zeros((), jnp.float32), jnp.float32(learning_rate))
      for name, (shares, most) in tables.items()}


def limits_penalty(limits: SearchLimits, alpha: Mapping[str, Array]) -> Array:
  """Returns the sum of the terms of one or more limits, scalar float32, in nats; the multipliers are constants."""
  return jnp.sum(jnp.stack([limit_penalty(limit.excess(alpha), limit.multiplier) for limit in limits.values()]))


def multipliers(limits: SearchLimits) -> dict[str, Array]:
  """Returns the multiplier of each limit, in nats."""
  return {name: limit.multiplier for name, limit in limits.items()}
