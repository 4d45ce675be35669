"""The cost of a selection, and its gradient through the straight-through selection, against golden arrays."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metamix_jax.method import bit_mixture, bops
from tests.helpers.quantization import ARRAYS, assert_relative


def test_straight_through_cost():
  layers = [
      bops.LayerCost(str(i), int(macs), 1, tuple(int(b) for b in ARRAYS["bops_bits"]), int(bits), "conv", "unsigned")
      for i, (macs, bits) in enumerate(zip(ARRAYS["bops_macs"], ARRAYS["bops_weight_bits"], strict=True))
  ]

  def cost(alpha):
    bits = bit_mixture.straight_through_selection(alpha) @ jnp.asarray(ARRAYS["bops_bits"], jnp.float32)
    return bops.gbops(layers, {str(i): bits[i] for i in range(3)})

  value, gradient = jax.value_and_grad(cost)(jnp.asarray(ARRAYS["bops_alpha"]))
  np.testing.assert_allclose(value, ARRAYS["bops_g"], rtol=1e-6)
  assert_relative(gradient, ARRAYS["bops_dalpha"])


def test_layer_costs_are_hashable_and_do_not_change():
  """They are static parts of programs."""
  layer = bops.LayerCost("a", 10, 20, (3, 8), 4, "conv", "unsigned")
  assert hash(layer) == hash(dataclasses.replace(layer)) and layer.searched
  with pytest.raises(dataclasses.FrozenInstanceError):
    layer.macs = 11
  assert not dataclasses.replace(layer, candidate_bits=(8,)).searched


def test_range_of_a_network():
  layers = (bops.LayerCost("a", 10**9, 20, (3, 8), 4, "conv", "unsigned"),
            bops.LayerCost("b", 2 * 10**9, 20, (8,), 8, "dense", "unsigned"))
  assert bops.attainable_range(layers) == (12 + 128, 32 + 128)


def test_layers_that_differ_in_their_costs_alone_are_equal():
  """They share their programs, which read costs as data."""
  layer = bops.LayerCost("a", 10, 20, (3, 8), 4, "conv", "unsigned")
  table = bops.CostTable("latency", "ms", (1.0, 2.0))
  other = dataclasses.replace(layer, weight_elements=5, cost=table)
  assert other == layer and hash(other) == hash(layer) and other.cost == table
  with pytest.raises(dataclasses.FrozenInstanceError):
    table.unit = "s"


def test_a_layer_in_full_precision_has_float32():
  layer = bops.LayerCost("a", 10**9, 20, (32,), 32, "conv", "signed")
  assert bops.FULL_PRECISION_BITS == 32 and not layer.quantized and not layer.searched
  assert dataclasses.replace(layer, candidate_bits=(8,)).quantized
  assert bops.gbops((layer,), {"a": 32}) == 1024
