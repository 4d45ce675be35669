"""bits.json and bits.csv: what they say of a network, and that the schema describes and delimits it."""

import csv
import dataclasses
import json

import pytest

from metamix_jax.export import bits_table, folding
from metamix_jax.method.bops import gbops
from metamix_jax.method.costs import with_activation_bytes, with_table
from tests.helpers.exported_networks import random_network
from tests.helpers.files import ROOT

TYPES = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float)}


def errors(value, schema, place="$"):
  """Returns where a value breaks a JSON schema; knows the keywords that bits.schema.json has, and refuses others."""
  known = {"$schema", "title", "description", "type", "required", "additionalProperties", "properties", "items",
           "minItems", "const", "enum", "minimum", "maximum", "exclusiveMinimum"}
  assert set(schema) <= known, set(schema) - known
  if "type" in schema and (not isinstance(value, TYPES[schema["type"]]) or isinstance(value, bool)):
    return [f"{place} is no {schema['type']}"]
  found = []
  if "const" in schema and value != schema["const"] or "enum" in schema and value not in schema["enum"]:
    found.append(f"{place} is {value!r}")
  if value != value or any((
      "minimum" in schema and value < schema["minimum"], "maximum" in schema and value > schema["maximum"],
      "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"])):
    found.append(f"{place} is {value!r}")
  if isinstance(value, dict):
    properties = schema["properties"]
    found += [f"{place} has no {name}" for name in schema["required"] if name not in value]
    found += [f"{place} has {name}" for name in value if name not in properties and not schema["additionalProperties"]]
    found += [error for name in value if name in properties
              for error in errors(value[name], properties[name], f"{place}.{name}")]
  if isinstance(value, list):
    found += [f"{place} is short"] * (len(value) < schema["minItems"])
    found += [error for number, item in enumerate(value)
              for error in errors(item, schema["items"], f"{place}.{number}")]
  return found


@pytest.fixture(scope="module")
def network():
  """h-swish, depthwise, dense and squeeze-and-excitation layers."""
  options = dict(blocks=((5, 24, 8, True, "hard_swish", 2),), stem_channels=8, stem_stride=1, last_channels=16)
  return random_network("mobilenet_v3_small", options, (9, 9, 3))


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
  path = tmp_path_factory.mktemp("bits")
  made = folding.make_program(network.network, network.variables, network.bits, network.image_shape)
  bits_table.write(path, made, network.network.layers)
  return path


def test_the_table_says_what_the_network_is(folder, network):
  content = json.loads((folder / "bits.json").read_text())
  layers = network.network.layers
  assert [row["layer"] for row in content["layers"]] == [layer.name for layer in layers]
  assert {row["layer"]: row["input_bits"] for row in content["layers"]} == network.bits
  assert content["gbops"] == gbops(layers, network.bits)
  assert sum(row["bops"] for row in content["layers"]) == round(1e9 * content["gbops"])
  rows = {row["layer"]: row for row in content["layers"]}
  depthwise, stem = rows["block_00/depthwise"], rows["stem"]
  sizes = network.variables["step_sizes"]["block_00"]["depthwise"]["activation"]
  bits = network.bits["block_00/depthwise"]
  # 5*5 taps of 24 channels, 9*9 positions in, 5*5 out.
  assert depthwise == {
      "layer": "block_00/depthwise", "kind": "depthwise", "input_bits": bits, "weight_bits": 4,
      "input_range": "hard_swish", "lowest_code": 0, "highest_code": 2**bits - 1,
      "input_step_size": float(sizes[(2, 3, 4, 8).index(bits)]), "input_shift": 0.375, "input_codes": 9 * 9 * 24,
      "weights": 600, "macs": 25 * 600, "bops": 25 * 600 * bits * 4}
  assert (stem["lowest_code"], stem["highest_code"], stem["input_shift"], stem["kind"]) == (-127, 127, 0, "conv")
  assert stem["bops"] == 9 * 9 * 8 * 27 * 64


@pytest.mark.parametrize("cost", ["milliseconds", "bytes"])
def test_the_table_counts_bit_operations_whatever_the_run_searched_for(cost, folder, network, tmp_path):
  """A layer that a table leaves out costs 0 ms, and has bit operations all the same."""
  layers = network.network.layers
  times = {(layer.name, bits, None): 0.031 for layer in layers if layer.searched for bits in layer.candidate_bits}
  costly = (with_activation_bytes(layers) if cost == "bytes" else
            with_table(layers, "latency", "ms", times, "table.csv"))
  total = 0.031 * len({name for name, _, _ in times}) if cost == "milliseconds" else sum(
      layer.input_elements * network.bits[layer.name] / 8 for layer in layers)
  assert gbops(costly, network.bits) == pytest.approx(total)
  made = folding.make_program(
      dataclasses.replace(network.network, layers=costly), network.variables, network.bits, network.image_shape)
  bits_table.write(tmp_path, made, costly)
  content = json.loads((tmp_path / "bits.json").read_text())
  assert errors(content, json.loads((tmp_path / "bits.schema.json").read_text())) == []
  assert content["layers"][0]["bops"] == 9 * 9 * 8 * 27 * 64  # The stem: 9*9*8 sums of 27 products, 8 by 8 bits.
  for name in ("bits.json", "bits.csv"):
    assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_the_comma_separated_file_has_the_same_rows(folder):
  layers = json.loads((folder / "bits.json").read_text())["layers"]
  with (folder / "bits.csv").open(newline="") as file:
    table = list(csv.DictReader(file))
  assert [list(row) for row in table] == [list(row) for row in layers]
  assert [[type(value)(row[name]) for name, value in layer.items()] for row, layer in zip(table, layers, strict=True)
          ] == [list(layer.values()) for layer in layers]


def test_the_schema_describes_the_file(folder):
  content = json.loads((folder / "bits.json").read_text())
  schema = json.loads((folder / content["$schema"]).read_text())
  assert errors(content, schema) == []
  fields = schema["properties"]["layers"]["items"]
  assert list(fields["properties"]) == fields["required"] == list(content["layers"][0])
  page = (ROOT / "docs" / "export.md").read_text()
  assert [name for name in fields["properties"] if f"`{name}`" not in page] == []


@pytest.mark.parametrize("name, value", [
    ("layer", 3), ("kind", "pool"), ("input_bits", 1), ("input_bits", 4.5), ("weight_bits", 9), ("input_range", "half"),
    ("lowest_code", -128), ("highest_code", 256), ("input_step_size", 0), ("input_step_size", float("nan")),
    ("input_shift", 0.5), ("input_codes", 0), ("weights", "many"), ("macs", 0), ("bops", None), ("note", "new")])
def test_the_schema_refuses_other_values(name, value, folder):
  content, schema = (json.loads((folder / file).read_text()) for file in ("bits.json", "bits.schema.json"))
  content["layers"][1][name] = value
  assert len(errors(content, schema)) == 1


def test_the_schema_refuses_what_is_missing(folder):
  schema = json.loads((folder / "bits.schema.json").read_text())
  for name in ("format", "version", "gbops", "layers"):
    content = json.loads((folder / "bits.json").read_text())
    del content[name]
    assert errors(content, schema) == [f"$ has no {name}"]
  content = json.loads((folder / "bits.json").read_text())
  del content["layers"][0]["bops"]
  assert errors(content, schema) == ["$.layers.0 has no bops"]
  assert errors(content | {"layers": [], "version": 2}, schema) == ["$.version is 2", "$.layers is short"]
