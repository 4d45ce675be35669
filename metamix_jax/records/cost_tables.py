"""Cost tables of a user's own, CSV files with a row for each layer and bit-width (docs/costs.md).

  layer,activation_bits,weight_bits,latency [ms]
  block_00/depthwise,3,4,0.031
  block_00/depthwise,4,4,0.038

The column weight_bits may be left out. The last column's heading is the name of the cost, with its unit in brackets.
"""

from collections.abc import Sequence
import csv
import dataclasses
import json
import os
import pathlib
import re

from metamix_jax.errors import UserError
from metamix_jax.method.bops import LayerCost
from metamix_jax.method.costs import ACTIVATION_BYTES, BOPS, with_activation_bytes, with_table
from metamix_jax.method.limits import Limit
from metamix_jax.records.results import parse_results

_COLUMNS = ("layer", "activation_bits")
_VALUE = re.compile(r"(\S.*?) *\[(.+)\]")


def with_costs(
    cost: str, layers: Sequence[LayerCost], field: str = "config.arch.cost"
) -> tuple[LayerCost, ...]:
  """Returns the layers with the cost that a config names.

  Args:
    cost: config.arch.cost: "bops", "activation_bytes", or the path of a CSV file.
    layers: every quantised layer.
    field: names where the cost stands in errors.

  Raises:
    UserError: the file cannot be read, or does not fit the layers; the sentence names the row or the layer.
  """
  if cost == BOPS:
    return tuple(layers)
  if cost == ACTIVATION_BYTES:
    return with_activation_bytes(layers)
  source = f"{field}={cost}"
  try:
    with pathlib.Path(os.path.expanduser(cost)).open(encoding="utf-8-sig", newline="") as file:
      rows = list(csv.reader(file))
  except (OSError, ValueError, csv.Error) as error:
    raise UserError(
        f"{source} cannot be read ({getattr(error, 'strerror', None) or error}); allowed are {BOPS}, "
        f"{ACTIVATION_BYTES} or a CSV file.") from error
  name, unit, values = _parse(rows, source)
  return with_table(layers, name, unit, values, source)


def check_costs(workdir: pathlib.Path, layers: Sequence[LayerCost], limits: Sequence[Limit]) -> None:
  """Checks that the costs of a run's layers and limits are those that it began with, which DIR/network.json has.

  Raises:
    UserError: a table has other values than at the start, or the file is damaged.
  """
  path = workdir / "network.json"
  if not path.exists():
    return
  saved = parse_results(path, lambda: _tables(json.loads(path.read_text(encoding="utf-8"))))
  here = (("config.arch.cost", layers), *(("config.arch.at_most", limit.layers) for limit in limits))
  for (field, table), earlier in zip(here, saved, strict=False):  # Other limits are another config.
    for layer in table:
      cost = None if layer.cost is None else json.loads(json.dumps(dataclasses.asdict(layer.cost)))
      if layer.name in earlier and earlier[layer.name] != cost:
        raise UserError(
            f"workdir {workdir} holds a run with other costs: those of layer {layer.name} were {earlier[layer.name]} "
            f"and are {cost}; bring the earlier table of {field} back, or choose another workdir.")


def _tables(network):
  """Returns {layer name: cost, or None for BOPs} of network.json, for the target and for each limit."""
  return [{layer["name"]: layer.get("cost") for layer in network["layers"]},
          *(limit["costs"] for limit in network.get("limits", ()))]


def _parse(rows, source):
  """Returns (name, unit, {(layer, activation bits, weight bits or None): value}) of the rows of a file."""
  header = [cell.strip() for cell in rows[0]] if rows else []
  heading = _VALUE.fullmatch(header[-1]) if header else None
  if heading is None or tuple(header[:-1]) not in (_COLUMNS, (*_COLUMNS, "weight_bits")):
    raise UserError(
        f"{source} begins with {','.join(header)!r}; it must begin with 'layer,activation_bits,NAME [UNIT]' or "
        "'layer,activation_bits,weight_bits,NAME [UNIT]', such as 'latency [ms]'.")
  values = {}
  for number, row in enumerate(rows[1:], 2):
    if not row:
      continue
    try:
      layer, *bits, value = (cell.strip() for cell in row)
      activation_bits, weight_bits = int(bits[0]), int(bits[1]) if len(header) == 4 else None
      if len(row) != len(header):
        raise ValueError
      key, value = (layer, activation_bits, weight_bits), float(value)
    except (ValueError, IndexError) as error:
      raise UserError(
          f"{source}, line {number}, is {','.join(row)!r}; it must have a layer, whole numbers of bits and a number: "
          f"{','.join(header)}.") from error
    if key in values:
      raise UserError(f"{source}, line {number}, has layer {layer} at {activation_bits} activation bits once more.")
    values[key] = value
  return heading[1], heading[2], values
