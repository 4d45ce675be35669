"""The bits of a network for other tools: bits.json, bits.csv, and bits.schema.json, which describes every field."""

from collections.abc import Mapping, Sequence
import csv
import io
import pathlib
import shutil
from typing import Any

from metamix_jax.export.evaluator import Program
from metamix_jax.method.bops import LayerCost, gbops, in_bops, layer_gbops
from metamix_jax.records.files import write_json, write_text

FORMAT, VERSION = "metamix_jax bits", 1
# JSON Schema 2020-12; copied into each export.
SCHEMA = pathlib.Path(__file__).with_name("bits.schema.json")


def rows(program: Program, layers: Sequence[LayerCost]) -> list[dict[str, Any]]:
  """Returns one row for each quantised layer in network order; bits.schema.json has the fields and their units.

  Args:
    program: the program.
    layers: the network's quantised layers; costs of their own are not looked at.
  """
  quantizers = {node["layer"]: node for node in program.quantizers}
  kernels = {node["layer"]: program.arrays[node["kernel"]] for node in program.quantized}
  table = []
  for layer in in_bops(layers):
    node = quantizers[layer.name]
    table.append({
        "layer": layer.name, "kind": layer.kind, "input_bits": node["bits"], "weight_bits": layer.weight_bits,
        "input_range": node["input_range"], "lowest_code": node["lowest"], "highest_code": node["highest"],
        "input_step_size": node["step_size"], "input_shift": node["shift"], "input_codes": layer.input_elements,
        "weights": kernels[layer.name].size, "macs": layer.macs,
        "bops": round(1e9 * layer_gbops(layer, node["bits"]))})
  return table


def write(folder: pathlib.Path, program: Program, layers: Sequence[LayerCost]) -> None:
  """Writes bits.json, bits.csv and bits.schema.json.

  Args:
    folder: an existing folder.
    program: the program.
    layers: the network's quantised layers; costs of their own are not looked at.

  Raises:
    UserError: bits.json or bits.csv cannot be written.
    OSError: the schema cannot be copied.
  """
  table = rows(program, layers)
  bits: Mapping[str, int] = {row["layer"]: row["input_bits"] for row in table}
  write_json(folder / "bits.json", {
      "$schema": SCHEMA.name, "format": FORMAT, "version": VERSION, "gbops": gbops(in_bops(layers), bits),
      "layers": table})
  text = io.StringIO()
  writer = csv.DictWriter(text, table[0], lineterminator="\n")
  writer.writeheader()
  writer.writerows(table)
  write_text(folder / "bits.csv", text.getvalue())
  shutil.copyfile(SCHEMA, folder / SCHEMA.name)
