"""MobileNetV2 at 224 x 224 pixels, layer by layer."""

import json

from metamix_jax.method.bops import gbops, uniform_bits
from metamix_jax.models import create_network
from metamix_jax.nn.scheme import QuantizationScheme
from metamix_jax.nn.tracing import trace_layers
from tests.helpers.files import GOLDEN


def test_macs_and_uniform_costs_of_mobilenet_v2():
  golden = json.loads((GOLDEN / "macs_224.json").read_text())["mobilenet_v2"]
  widths = (2, 3, 4, 5, 6, 8)
  layers = trace_layers(create_network("mobilenet_v2", 1000, QuantizationScheme(widths, 4, 8), {}), (224, 224, 3))
  assert [layer.macs for layer in layers] == list(golden["layers"].values())
  assert sum(layer.macs for layer in layers) == 300774272
  assert sum(layer.searched for layer in layers) == 51
  for width in widths:
    expected = golden["gbops_first_last_8bit_rest_w4"][f"a{width}"]
    assert abs(gbops(layers, uniform_bits(layers, width)) - expected) < 1e-9
