"""Runs that several claims share, and what they selected."""

from collections.abc import Mapping
from typing import Any

from flax import traverse_util

from claims.ablations import searched_together
from claims.runs import SeedRuns
from metamix_jax.method.assignments import assign_by_sensitivity
from metamix_jax.method.selection import select_within_target
from metamix_jax.records.alpha import read_alpha
from metamix_jax.training import phases
from metamix_jax.training.context import TrainingContext
from metamix_jax.training.saved_search import load_full_precision, load_meta_state
from metamix_jax.training.sensitivity import measure_sensitivity
from metamix_jax.training.stability import measure_stability
from metamix_jax.training.state import MetaState


def reference_summary(runs: SeedRuns, config) -> dict[str, Any]:
  """Returns the summary of the method's search, which most claims share."""
  config = runs.config(arch__target_gbops=tuple(runs.claim.reference_targets))
  return runs.search(runs.claim.reference, config)


def selected_by_reference(runs: SeedRuns, config) -> dict[str, int]:
  """Returns the bits that the method selected for the target of a config."""
  return target_of(reference_summary(runs, config), config.arch.target_gbops)["bits"]


def target_of(summary: Mapping[str, Any], target_gbops: float) -> dict[str, Any]:
  """Returns what a summary has of one target."""
  return next(target for target in summary["targets"] if target["target_gbops"] == target_gbops)


def only_target(summary: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what a summary has of its only target."""
  target, = summary["targets"]
  return target


def selected_by_sensitivity(runs: SeedRuns, context: TrainingContext, config) -> dict[str, int]:
  """Assigns bits by the loss of one layer at a time on training images, straight from the reference's meta-state."""
  folder = runs.folder(runs.claim.reference)
  losses = measure_sensitivity(context, load_meta_state(context, folder), folder, runs.claim.judging_batches)
  return assign_by_sensitivity(
      context.network.layers, losses, config.arch.target_gbops, config.arch.target_tolerance)


def selected_at_tolerance(runs: SeedRuns, config, search: str, tolerance: float) -> dict[str, int]:
  """Returns what the alpha of a finished search selects where no more than `tolerance` of the target may be left."""
  layers, target_gbops = runs.context(config).network.layers, config.arch.target_gbops
  alpha = read_alpha(runs.folder(search), layers)[target_gbops]
  return select_within_target(layers, alpha, target_gbops, tolerance)


def search_together(runs: SeedRuns) -> dict[str, Any]:
  """Returns the summary of the search of weights and bits together."""
  config = runs.config(bit_selection__epochs=runs.claim.together_epochs, bit_selection__meta_only_epochs=0)
  return runs.search("searched_together", config, searched_together)


def quantized_meta_state(runs: SeedRuns, config) -> tuple[dict[str, Any], MetaState]:
  """Trains a meta-state whose weights are quantised; returns its statistics' distances, and the state.

  The state has full-precision weights again, because stage A of weight training starts so.
  """
  def start(context: TrainingContext) -> MetaState:
    return full_precision_state(runs, context).with_weight_step_sizes()

  results, meta = runs.meta_state(
      runs.claim.reference, "quantized_weights", config, start,
      lambda context, meta: {"distance": measure_stability(context, meta)})
  leaves = traverse_util.flatten_dict(meta.step_sizes)
  return results["distance"], meta.replace(step_sizes=traverse_util.unflatten_dict(
      {path: leaf for path, leaf in leaves.items() if path[-1] != "weight"}))


def full_precision_state(runs: SeedRuns, context: TrainingContext) -> MetaState:
  """Returns the full-precision network with the step sizes that bit-meta training starts from."""
  return phases.start_step_sizes(context, load_full_precision(context, runs.folder(runs.claim.reference)))
