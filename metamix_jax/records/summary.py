"""What DIR/report/summary.json and DIR/network.json hold."""

from collections.abc import Mapping, Sequence
import dataclasses
import importlib.metadata
import platform

import ml_collections

from metamix_jax import config as config_rules
from metamix_jax.method.bops import LayerCost, average_activation_bits, gbops, uniform_bits
from metamix_jax.method.selection import bits_of

PACKAGES = ("metamix_jax", "jax", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "ml-collections")


def summarize(
    config: ml_collections.ConfigDict, layers: Sequence[LayerCost], budgets: Sequence[Mapping], evaluated: Mapping,
    seconds: Mapping[str, float], skipped_records: int, best: Mapping[str, dict | None],
) -> dict:
  """The summary of a run: top-1 in percent, costs in GBOPs of one image, bits by layer name, seconds by phase.

  The figures of each budget stand under "pareto"; where there is one, at the top as well.

  Args:
    config: of the run.
    layers: every quantised layer.
    budgets: as `pareto_point` takes them.
    evaluated: "full_precision_top1" and "meta_state_top1" of the run.
    seconds: by phase.
    skipped_records: images that this start of the run met and could not decode.
    best: the best evaluated step of each phase, {"step", "top1"}, or None.
  """
  widths = next(layer.candidate_bits for layer in layers if layer.searched)
  uniform_gbops = {str(width): gbops(layers, uniform_bits(layers, i)) for i, width in enumerate(widths)}
  points = [pareto_point(layers, budget, config.arch.target_tolerance) for budget in budgets]
  return {
      "full_precision_top1": evaluated["full_precision_top1"],
      "meta_state_top1": evaluated["meta_state_top1"],
      "uniform_gbops": uniform_gbops,
      **(points[0] if len(points) == 1 else {}),
      "pareto": {
          "budgets": points,
          "uniform": [
              {"bits": int(width), "gbops": uniform_gbops[width], "top1": top1["reestimated"]}
              for width, top1 in evaluated["meta_state_top1"].items()],
      },
      "best": {phase: step for phase, step in best.items() if step},
      "skipped_records": skipped_records,
      "seconds": dict(seconds),
      "seed": config.seed,
      "config": config_rules.flatten(config),
      "versions": {"python": platform.python_version()} | {
          package: importlib.metadata.version(package) for package in PACKAGES},
  }


def pareto_point(layers: Sequence[LayerCost], budget: Mapping, tolerance: float) -> dict:
  """A point of the accuracy-cost curve: what a budget selected, its cost, and its top-1 as far as it was trained.

  Args:
    layers: every quantised layer.
    budget: "target_gbops"; "candidates" and "most_probable", indices by layer name; "selected_top1", "stage_a_top1" and
      "final_top1" in percent, the last two None where the budget was not trained.
    tolerance: fraction of the target that may stay unused.
  """
  bits, argmax_bits = bits_of(layers, budget["candidates"]), bits_of(layers, budget["most_probable"])
  selected_gbops, target = gbops(layers, bits), budget["target_gbops"]
  return {
      "target_gbops": target,
      "selected_gbops": selected_gbops,
      "argmax_gbops": gbops(layers, argmax_bits),
      "target_met": (1 - tolerance) * target <= selected_gbops <= target,
      "average_activation_bits": average_activation_bits(layers, bits),
      "selected": {layer.name: bits[layer.name] for layer in layers if layer.searched},
      "settled": {name: [argmax_bits[name], bits[name]] for name in bits if bits[name] != argmax_bits[name]},
      "selected_top1": budget["selected_top1"],
      "stage_a_top1": budget["stage_a_top1"],
      "final_top1": budget["final_top1"],
  }


def describe_network(config: ml_collections.ConfigDict, layers: Sequence[LayerCost]) -> dict:
  """Static facts of the network: what DIR/network.json holds; the layers in network order."""
  return {
      "network": config.network.name,
      "image_size": config.data.image_size,
      "layers": [dataclasses.asdict(layer) | {"searched": layer.searched} for layer in layers],
  }
