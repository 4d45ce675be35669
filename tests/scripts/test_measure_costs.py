"""The cost table that is measured on this machine."""

import dataclasses

from metamix_jax.method.bops import attainable_range
from metamix_jax.records.cost_tables import with_costs
from metamix_jax.training import context
from tests.helpers.configs import tiny_config
from tests.helpers.files import load_script


def test_a_measured_table_is_a_cost_of_its_network(tmp_path):
  network, _ = context.build_networks(tiny_config(tmp_path), 10, 1)
  rows = list(load_script("measure_costs").measure(network, (8, 8, 1), 2, 1))
  table = tmp_path / "table.csv"
  table.write_text("layer,activation_bits,weight_bits,latency [ms]\n" + "".join(
      f"{','.join(map(str, row))}\n" for row in rows))
  layers = with_costs(str(table), network.layers)
  for layer in layers:
    # One 8-bit kernel serves all candidates; convolutions, depthwise ones and the dense layer all ran.
    assert len(set(layer.cost.values)) == 1 and layer.cost.values[0] > 0
  low, high = attainable_range(layers)
  assert low == high and layers[0].cost.unit == "ms"
  full = [(layer, float(value)) for layer, bits, weight_bits, value in rows if bits == weight_bits == 32]
  assert [name for name, _ in full] == [layer.name for layer in layers] and all(value > 0 for _, value in full)
  in_full_precision = tuple(
      dataclasses.replace(layer, candidate_bits=(32,), weight_bits=32) for layer in network.layers)
  assert [layer.cost.values[0] for layer in with_costs(str(table), in_full_precision)] == [value for _, value in full]
