"""The contents of DIR/report/summary.json and DIR/network.json."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import importlib.metadata
import platform
import sys

import ml_collections

from metamix_jax.config_file import flatten
from metamix_jax.method.bops import LayerCost, cost_name, cost_unit
from metamix_jax.method.limits import Limit
from metamix_jax.records.results import FULL_PRECISION_TOP1, BitSelection, UniformResult
from metamix_jax.records.workdir import names_of_functions

PACKAGES = ("metamix_jax", "jax", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "ml-collections")


def summarize(
    config: ml_collections.ConfigDict, full_precision_top1: float, selection: BitSelection,
    uniform: Sequence[UniformResult], seconds: Mapping[str, float], skipped_records: int,
    best: Mapping[str, dict | None], fingerprints: Mapping[str, str],
) -> dict:
  """Returns the summary of a run: top-1 in percent, costs in GBOPs of one image, bits by layer name, seconds by phase.

  Args:
    config: of the run.
    full_precision_top1: of the network after pretraining.
    selection: the targets with all their top-1s, and the activation stability.
    uniform: the result at each uniform bit-width.
    seconds: {phase: seconds}.
    skipped_records: number of images that this start of the run could not decode.
    best: {phase: {"step", "top1"}} of the best evaluated steps; None if no step was evaluated.
    fingerprints: {phase: hash of bits, weights, step sizes and batch statistics} of the meta-state and of each trained
      network.
  """
  return {
      FULL_PRECISION_TOP1: full_precision_top1,
      **selection.to_json(),
      "targets": [target.to_json() for target in selection.targets],
      "uniform": [result.to_json() for result in uniform],
      "cost_name": cost_name(selection.targets[0].layers),
      "cost_unit": cost_unit(selection.targets[0].layers),
      "best": {phase: step for phase, step in best.items() if step},
      "fingerprints": dict(fingerprints),
      "skipped_records": skipped_records,
      "seconds": dict(seconds),
      "seed": config.seed,
      "config": flatten(config),
      "versions": current_versions(),
  }


def current_versions() -> dict[str, str]:
  """Returns the versions of Python and of the PACKAGES in use, by name."""
  return {"python": platform.python_version()} | {package: version_of(package) for package in PACKAGES}


def version_of(package: str) -> str:
  """Returns the version of a package; "unknown" where neither pip nor the imported module says it."""
  try:
    found = importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:  # Imported from a source tree, or installed without pip.
    found = getattr(sys.modules.get(package.replace("-", "_")), "__version__", None)
  return str(found or "unknown")


def describe_network(
    config: ml_collections.ConfigDict, layers: Sequence[LayerCost], quantizer: Sequence[Callable],
    limits: Sequence[Limit] = ()
) -> dict:
  """Returns the contents of DIR/network.json: static facts of the network, its layers in network order.

  Args:
    config: of the run.
    layers: every quantised layer.
    quantizer: its functions, of which only the names are kept.
    limits: on sums of further costs; if there are any, "limits" has what each layer costs, {name: cost}, and the most.
  """
  described = {
      "network": config.network.name,
      "image_size": config.data.image_size,
      "layers": [_describe_layer(layer) for layer in layers],
      "quantizer": names_of_functions(quantizer),
  }
  if limits:
    described["limits"] = [
        {"most": limit.most, "costs": {
            layer.name: layer.cost and dataclasses.asdict(layer.cost) for layer in limit.layers}} for limit in limits]
  return described


def _describe_layer(layer):
  """Returns the fields of a layer; a "cost" only where that is not BOPs, candidates of weights where there are some."""
  fields = dataclasses.asdict(layer) | {"searched": layer.searched}
  return {name: value for name, value in fields.items() if value or name not in ("cost", "candidate_weight_bits")}
