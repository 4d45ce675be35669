"""DIR/selected_bits.json: the bits that a run selected."""

from collections.abc import Mapping, Sequence
import json
import os
import pathlib

from metamix_jax.errors import UserError
from metamix_jax.method.bops import LayerCost
from metamix_jax.records.files import write_json
from metamix_jax.records.results import check_bits


def write_selected_bits(path: pathlib.Path, bits: Mapping[str, int]) -> None:
  """Writes {"selected": {layer name: bits}} of the searched layers as JSON."""
  write_json(path, {"selected": dict(bits)})


def read_selected_bits(
    path: str | os.PathLike, layers: Sequence[LayerCost], field: str = "config.bits_from"
) -> dict[str, int]:
  """Reads the bits of the searched layers, by layer name, from a file of `write_selected_bits`.

  Args:
    path: of the file.
    layers: every quantised layer.
    field: names in errors where the path stands.

  Raises:
    UserError: the file is missing, is not such JSON, or does not fit the searched layers and their bits.
  """
  try:
    selected = dict(json.loads(pathlib.Path(path).read_text())["selected"])
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(
        f"{field}={path} cannot be read ({type(error).__name__}: {error}); it must be a selected_bits.json "
        "of an earlier run.") from error
  try:
    return check_bits(layers, selected)
  except ValueError as error:
    raise UserError(f"{field}={path} does not fit this network: {error}.") from error
