"""The paper's networks against torchvision: logits, MACs, input ranges."""

import functools
import json

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metamix_jax.method.bops import gbops, uniform_bits
from metamix_jax.models import create_network
from metamix_jax.models.pretrained import from_torchvision, variable_shapes
from metamix_jax.nn.layers import QuantLayer
from metamix_jax.nn.scheme import QuantizationScheme
from metamix_jax.nn.tracing import trace_layers
from tests.helpers.files import GOLDEN
from tests.helpers.golden_weights import SHAPES, golden_state_dict

MACS = json.loads((GOLDEN / "macs_224.json").read_text())
WIDTHS = (2, 3, 4, 5, 6, 8)
SCHEME = QuantizationScheme(WIDTHS, 4, 8)
NUM_SEARCHED = {
    "mobilenet_v2": 51, "mobilenet_v3_large": 62, "mobilenet_v3_small": 52, "resnet18": 19, "resnet101": 103}


@functools.cache
def network_and_shapes(network):
  module = create_network(network, 1000, SCHEME, {})
  return module, variable_shapes(module)


@pytest.mark.parametrize("network", sorted(SHAPES))
def test_logits_equal_torchvision(network):
  golden = np.load(GOLDEN / "torchvision_logits.npz")
  seed = int(golden["seed"])
  module, like = network_and_shapes(network)
  tree = from_torchvision(golden_state_dict(network, seed), network, like, "golden")
  images = np.random.default_rng([seed, 7]).normal(0, 1, (2, 3, 224, 224)).astype(np.float32).transpose(0, 2, 3, 1)
  variables = {"params": tree["weights"], "batch_stats": tree["batch_stats"]}
  logits = jax.jit(lambda variables, x: module.apply(variables, x, train=False))(variables, images)
  error = np.linalg.norm(logits - golden[network]) / np.linalg.norm(golden[network])
  assert error <= 1e-4, error


@pytest.mark.parametrize("network", sorted(MACS))
def test_macs_and_uniform_costs(network):
  layers = trace_layers(create_network(network, 1000, SCHEME, {}), (224, 224, 3))
  assert [layer.macs for layer in layers] == list(MACS[network]["layers"].values())
  assert sum(layer.macs for layer in layers) == MACS[network]["total_macs"]
  assert sum(layer.searched for layer in layers) == NUM_SEARCHED[network]
  assert [layer.name for layer in layers if not layer.searched] == ["stem", "classifier"]
  for width in WIDTHS:
    expected = MACS[network]["gbops_first_last_8bit_rest_w4"][f"a{width}"]
    assert abs(gbops(layers, uniform_bits(layers, width)) - expected) < 1e-9


def test_penultimate_weight_bits_are_counted():
  options = {"penultimate_weight_bits": 8}
  layers = trace_layers(create_network("mobilenet_v3_large", 1000, SCHEME, options), (224, 224, 3))
  assert {layer.name for layer in layers if layer.weight_bits == 8} == {"stem", "penultimate", "classifier"}
  # 960 x 1280 MACs with 4 bits more of weights, at 4 bits of activations.
  expected = MACS["mobilenet_v3_large"]["gbops_first_last_8bit_rest_w4"]["a4"] + 960 * 1280 * 4 * 4 / 1e9
  assert abs(gbops(layers, uniform_bits(layers, WIDTHS[2])) - expected) < 1e-9


def input_ranges_and_minima(network):
  """Each layer's declared input range, and the smallest value it reads on random images with the golden weights."""
  module, like = network_and_shapes(network)
  tree = from_torchvision(golden_state_dict(network, 0), network, like, "golden")
  ranges = {}

  def smallest_inputs(images):
    smallest = {}

    def record(call, args, kwargs, context):
      layer = context.module
      if isinstance(layer, QuantLayer) and context.method_name == "__call__":
        ranges["/".join(layer.path)] = layer.input_range
        smallest["/".join(layer.path)] = jnp.min(args[0])
      return call(*args, **kwargs)

    with nn.intercept_methods(record):
      module.apply({"params": tree["weights"], "batch_stats": tree["batch_stats"]}, images, train=False)
    return smallest

  # Wide inputs: where a layer may read any value, values far below 0 are then among them.
  images = np.random.default_rng(0).normal(0, 4, (4, 64, 64, 3)).astype(np.float32)
  return ranges, jax.jit(smallest_inputs)(images)


@pytest.mark.parametrize("network", ["mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "resnet18"])
def test_each_input_range_is_what_the_layer_reads(network):
  lowest = {"unsigned": 0.0, "hard_swish": -0.375 - 1e-6}
  ranges, smallest = input_ranges_and_minima(network)
  for name, input_range in ranges.items():
    minimum = float(smallest[name])
    if input_range == "signed":
      assert minimum < -0.375, name  # Neither of the other two would hold it.
    else:
      assert minimum >= lowest[input_range], name
    if input_range == "hard_swish":
      assert minimum < 0, name  # "unsigned" would not hold it.


def test_shapes_of_state_dicts_and_ours_hold_as_many_numbers():
  for network, shapes in SHAPES.items():
    leaves = traverse_util.flatten_dict(network_and_shapes(network)[1]).values()
    ours = sum(np.prod(leaf.shape, dtype=int) for leaf in leaves)
    theirs = sum(np.prod(shape, dtype=int) for name, shape in shapes.items() if "num_batches" not in name)
    assert ours == theirs, network
