"""Alpha of every target at the end of a search, in DIR/checkpoints/bit_selection.json, exact to the last bit."""

from collections.abc import Mapping, Sequence
import json
import pathlib
from typing import Any

import numpy as np

from metamix_jax.errors import UserError
from metamix_jax.method.bops import LayerCost, choices
from metamix_jax.records.results import parse_results

# Of a run's folder: the results of the bit selection.
BIT_SELECTION = pathlib.PurePath("checkpoints", "bit_selection.json")
# What the step sizes and the alpha of a layer depend on; a cost or another image size changes neither.
LAYER_FACTS = ("name", "candidate_bits", "input_range")
WEIGHTS = "candidate_weight_bits"  # Only of layers whose kernels are searched.


def with_alpha(results: Mapping[str, Any], alpha: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Adds "alpha", {layer name: [B]}, to each target of the results of a bit selection.

  Args:
    results: of BitSelection.to_json, with K targets.
    alpha: {layer name: [K, B]} float32, one row for each target.
  """
  targets = [
      entry | {"alpha": {name: [float(value) for value in values[index]] for name, values in alpha.items()}}
      for index, entry in enumerate(results["targets"])]
  return dict(results) | {"targets": targets}


def read_alpha(workdir: pathlib.Path, layers: Sequence[LayerCost]) -> dict[float, dict[str, np.ndarray]]:
  """Reads alpha of every target from a run whose search is finished.

  Args:
    workdir: DIR.
    layers: every quantised layer of the network that the run trained, in network order.

  Returns:
    {target in GBOPs: {layer name: [B] float32}}, targets ascending and layers in network order, as
    method.selection.select_within_target takes them.

  Raises:
    UserError: the search of this folder is not finished, or had its bits from a file; or the file is damaged or of
      another network.
  """
  check_saved_search(workdir, layers)
  path = workdir / BIT_SELECTION
  return parse_results(path, lambda: _parse(path, layers))


def check_saved_search(workdir: pathlib.Path, layers: Sequence[LayerCost]) -> None:
  """Checks, in a moment, that a folder holds a finished bit selection of a network.

  Args:
    workdir: DIR.
    layers: every quantised layer of the network, in network order.

  Raises:
    UserError: it does not; the sentence names the folder and the first layer that differs.
  """
  if not (workdir / BIT_SELECTION).exists():
    raise UserError(
        f"{workdir} has no {BIT_SELECTION}; allowed is the folder of a run whose bit selection is finished.")
  path = workdir / "network.json"
  saved = parse_results(path, lambda: [
      (*(layer[fact] for fact in LAYER_FACTS), layer.get(WEIGHTS, []))
      for layer in json.loads(path.read_text(encoding="utf-8"))["layers"]])
  here = [
      (layer.name, list(layer.candidate_bits), layer.input_range, list(layer.candidate_weight_bits))
      for layer in layers]
  for there, layer in zip(saved, here, strict=False):
    if there != layer:
      raise UserError(
          f"the run in {workdir} has another network: its layer {there[0]} ({_words(there)}) stands where layer "
          f"{layer[0]} ({_words(layer)}) is here.")
  if len(saved) != len(here):
    raise UserError(f"the run in {workdir} has another network: {len(saved)} layers there and {len(here)} here.")


def _words(facts):
  kernels = f", kernels {', '.join(map(str, facts[3]))}" if facts[3] else ""
  return f"candidates {', '.join(map(str, facts[1]))}, input {facts[2]}{kernels}"


def _parse(path, layers):
  by_target = {}
  for entry in json.loads(path.read_text(encoding="utf-8"))["targets"]:
    if "alpha" not in entry:
      raise UserError(
          f"{path} has no alpha; its run took its bits from a file (config.bits_from) instead of searching them.")
    by_target[float(entry["target_gbops"])] = _of_layers(entry["alpha"], layers)
  return by_target


def _of_layers(alpha, layers):
  searched = choices(layers)
  if set(alpha) != set(searched):
    odd = min(set(alpha) ^ set(searched))
    raise ValueError(f"layer {odd!r} is {'unknown' if odd in alpha else 'missing'} in its alpha")
  arrays = {name: np.asarray(alpha[name], np.float32) for name in searched}
  for name, candidates in searched.items():
    if arrays[name].shape != (len(candidates),) or not np.isfinite(arrays[name]).all():
      raise ValueError(
          f"alpha of layer {name!r} is {alpha[name]!r}; it must be {len(candidates)} numbers, for the candidates "
          f"{candidates}")
  return arrays
