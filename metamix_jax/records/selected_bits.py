"""DIR/selected_bits.json: the bits that a run selected."""

from collections.abc import Mapping, Sequence
import json
import pathlib

from metamix_jax.errors import UserError
from metamix_jax.method.bops import LayerCost
from metamix_jax.records.files import write_json


def write_selected_bits(path: pathlib.Path, layers: Sequence[LayerCost], candidates: Mapping[str, int]) -> None:
  """Writes {"selected": {layer name: bits}} of the searched layers as JSON."""
  bits = {layer.name: layer.candidate_bits[candidates[layer.name]] for layer in layers if layer.searched}
  write_json(path, {"selected": bits})


def read_selected_bits(path: str, layers: Sequence[LayerCost]) -> dict[str, int]:
  """Candidate index by layer name from a file of `write_selected_bits`.

  Raises:
    UserError: the file is missing, is no such JSON, or does not fit the searched layers and their bits.
  """
  try:
    selected = json.loads(pathlib.Path(path).read_text())["selected"]
    items = dict(selected)
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(
        f"config.bits_from={path} cannot be read ({type(error).__name__}: {error}); it must be a selected_bits.json "
        "of an earlier run.") from error
  searched = {layer.name: layer for layer in layers if layer.searched}
  if set(items) != set(searched):
    odd = sorted(set(items) ^ set(searched))[0]
    raise UserError(
        f"config.bits_from={path} does not fit this network: layer {odd!r} is "
        f"{'unknown' if odd in items else 'missing'}; it must name its {len(searched)} searched layers.")
  for name, bits in items.items():
    if bits not in searched[name].candidate_bits:
      raise UserError(
          f"config.bits_from={path} gives layer {name!r} {bits!r} bits; allowed are {searched[name].candidate_bits}.")
  return {name: layer.candidate_bits.index(items[name]) for name, layer in searched.items()}
