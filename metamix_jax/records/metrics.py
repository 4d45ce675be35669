"""The scalars of a training step, by name, as DIR/metrics.jsonl and TensorBoard hold them.

docs/metrics.md is the list for users. All functions take host arrays; training/recorder.py fetches them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flax import traverse_util
import numpy as np

from metamix_jax.method.bops import LayerCost, candidate_widths, choices
from metamix_jax.method.selection import log_probabilities
from metamix_jax.records.names import format_target

Scalars = dict[str, float]


class TargetMetrics(NamedTuple):
  """Holds the search for one target after a step.

  Attributes:
    target_gbops: target in GBOPs of one image.
    alpha: {layer name: [B]} after the step.
    loss: task loss of the mixtures in the step, without the penalty, in nats.
    gbops: GBOPs of the hard selection in the step, on one image.
    multipliers: {limit: its multiplier after the step}, in nats; {} without further limits.
  """

  target_gbops: float
  alpha: Mapping[str, np.ndarray]
  loss: float
  gbops: float
  multipliers: Mapping[str, float] = {}


def loss_scalars(layers: Sequence[LayerCost], metrics: Mapping[str, np.ndarray]) -> Scalars:
  """Returns "loss", and "loss/BITS" if the step has a loss for each candidate bit-width, in nats."""
  scalars = {"loss": shortest(metrics["loss"])}
  if "loss_by_candidate" in metrics:
    for bits, loss in zip(candidate_widths(layers), metrics["loss_by_candidate"], strict=True):
      scalars[f"loss/{bits}"] = shortest(loss)
  return scalars


def step_size_scalars(values: Mapping[str, np.ndarray]) -> Scalars:
  """Returns one number for each of `named_step_sizes`: the mean over its channels."""
  return {name: shortest(np.mean(steps)) for name, steps in values.items()}


def named_step_sizes(
    layers: Sequence[LayerCost], step_sizes: Mapping[str, Any], bits: Mapping[str, int] | None
) -> dict[str, np.ndarray]:
  """Returns the step sizes in use: "step_size/LAYER/BITS", scalar, and "weight_step_size/LAYER", [channels].

  Where kernels are searched it is "weight_step_size/LAYER/BITS" for each candidate.

  Args:
    layers: every quantised layer.
    step_sizes: the collection; {} in full precision.
    bits: bits of each searched layer; None: every candidate is in use.
  """
  values, leaves = {}, traverse_util.flatten_dict(step_sizes, sep="/")
  for layer in layers:
    for candidate, width in enumerate(layer.candidate_bits):
      in_use = bits is None or not layer.searched or bits[layer.name] == width
      if in_use and f"{layer.name}/activation" in leaves:
        values[f"step_size/{layer.name}/{width}"] = leaves[f"{layer.name}/activation"][candidate]
  for layer in layers:
    if f"{layer.name}/weight" not in leaves:
      continue
    if not layer.candidate_weight_bits:
      values[f"weight_step_size/{layer.name}"] = leaves[f"{layer.name}/weight"]
    for candidate, width in enumerate(layer.candidate_weight_bits):
      if bits is None or bits[layer.kernel_name] == width:
        values[f"weight_step_size/{layer.name}/{width}"] = leaves[f"{layer.name}/weight"][candidate]
  return values


def running_variance_scalars(batch_stats: Mapping[str, Any]) -> Scalars:
  """Returns "running_variance/LAYER" of each batch-norm layer: the mean over its channels [P, figure 2]."""
  leaves = traverse_util.flatten_dict(batch_stats, sep="/")
  return {
      f"running_variance/{path.removesuffix('/var')}": shortest(np.mean(values))
      for path, values in leaves.items() if path.endswith("/var")}


def search_scalars(layers: Sequence[LayerCost], searches: Sequence[TargetMetrics]) -> Scalars:
  """Returns "search/TARGET/...": loss, GBOPs, mean entropy over the layers, multipliers, each probability (M5)."""
  scalars = {}
  for search in searches:
    prefix, entropies, probabilities = f"search/{format_target(search.target_gbops)}", [], {}
    for name, candidates in choices(layers).items():
      logarithms = log_probabilities(search.alpha[name])
      pi = np.exp(logarithms)
      entropies.append(-np.sum(pi * logarithms))
      for bits, probability in zip(candidates, pi, strict=True):
        probabilities[f"{prefix}/probability/{name}/{bits}"] = shortest(probability)
    scalars |= {
        f"{prefix}/loss": shortest(search.loss), f"{prefix}/gbops": shortest(search.gbops),
        f"{prefix}/alpha_entropy": shortest(np.mean(entropies)),
        **{f"{prefix}/multiplier/{name}": shortest(value) for name, value in search.multipliers.items()},
        **probabilities}
  return scalars


def shortest(value: Any) -> float:
  """Returns the float with the fewest digits that is equal in float32; it halves the size of the file."""
  return float(str(np.float32(value)))
