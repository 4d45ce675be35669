"""What is run and measured for the claims that are not in the paper, for one seed; claims.statements judges it.

Functions and values are as in claims.measurements.
"""

from typing import Any

import numpy as np

from claims.ablations import moving_weights
from claims.runs import SeedRuns
from claims.shared_runs import (
  full_precision_state,
  only_target,
  quantized_meta_state,
  search_together,
  selected_at_tolerance,
  selected_by_reference,
  selected_by_sensitivity,
)
from claims.step_times import median_seconds, steps_of_search
from metamix_jax.training.judge import evaluation_judge
from metamix_jax.training.saved_search import load_meta_state


def spent_target(runs: SeedRuns) -> dict[str, Any]:
  """Trains the selection that leaves less of the target, beside two assignments of claim a."""
  claim, config = runs.claim, runs.config()
  selected, context = selected_by_reference(runs, config), runs.context(config)
  assignments = {
      "spent": selected_at_tolerance(runs, config, claim.reference, claim.tolerance), "selected": selected,
      "sensitivity": selected_by_sensitivity(runs, context, config)}
  return {name: runs.train(claim.reference, name, bits, config) for name, bits in assignments.items()}


def weights_that_moved(runs: SeedRuns) -> dict[str, Any]:
  """Trains the bits of the search on moving weights from the fixed meta-state too, and both searches' target spent."""
  claim, config, name = runs.claim, runs.config(), "moving_weights"
  fixed = selected_by_reference(runs, config)
  moving = only_target(runs.search(name, config, moving_weights))["bits"]

  def spent(search):
    return selected_at_tolerance(runs, config, search, claim.tolerance)

  return {
      "fixed": runs.train(claim.reference, "selected", fixed, config),
      "moving": runs.train(name, "selected", moving, config),
      "moving_bits": runs.train(claim.reference, "of_moving_weights", moving, config),
      "fixed_spent": runs.train(claim.reference, "spent", spent(claim.reference), config),
      "moving_spent": runs.train(name, "spent", spent(name), config)}


def searched_weights(runs: SeedRuns) -> dict[str, Any]:
  """Searches bits of activations and weights together, trains both selections, and times the steps of both searches."""
  claim, config, name = runs.claim, runs.config(), "searched_weights"
  both = runs.config(
      quantization__candidate_weight_bits=tuple(claim.candidate_weight_bits), arch__target_tolerance=claim.tolerance)
  selected_by_reference(runs, config)
  bits = only_target(runs.search(name, both))["bits"]
  uniform = {
      f"uniform_{width}": dict.fromkeys(selected_by_reference(runs, config), width) for width in claim.uniform_bits}
  steps = {
      f"{step}_{which}": take
      for which, searched, search in (("alone", config, claim.reference), ("both", both, name))
      for step, take in steps_of_search(runs, runs.context(searched), search).items()}
  return {
      "activations_alone": runs.train(
          claim.reference, "spent", selected_at_tolerance(runs, config, claim.reference, claim.tolerance), config),
      "activations_and_weights": runs.train(name, "selected", bits, both),
      **{which: runs.train(claim.reference, which, widths, config) for which, widths in uniform.items()},
      "seconds_of_a_step": median_seconds(steps, claim.timed_steps)}


def all_epochs(runs: SeedRuns) -> dict[str, Any]:
  """Trains what claims d, e and g compare again, each for all epochs of weight training instead of a quarter."""
  claim, config = runs.claim, runs.config()
  full = runs.config(stage_a__epochs=claim.full_epochs[0], stage_b__epochs=claim.full_epochs[1])
  bits = selected_by_reference(runs, config)
  together = only_target(search_together(runs))["bits"]
  _, quantized = quantized_meta_state(runs, config)
  return {
      "method": runs.train(claim.reference, "selected_all_epochs", bits, full),
      "together": runs.train("searched_together", "selected_all_epochs", together, full),
      "quantized": runs.train(
          claim.reference, "from_quantized_weights_all_epochs", bits, full, lambda context: quantized),
      "full_precision": runs.train(
          claim.reference, "from_full_precision_all_epochs", bits, full,
          lambda context: full_precision_state(runs, context))}


def kept_targets(runs: SeedRuns) -> dict[str, Any]:
  """Trains the selection with the targets of some classes alone, and with crops that come again."""
  claim, config = runs.claim, runs.config()
  bits = selected_by_reference(runs, config)
  kept = runs.config(teacher__kept_targets=str(runs.folder("kept_targets")), teacher__kept_classes=claim.kept_classes)
  configs = {
      "selected": config, "kept_classes": kept,
      "repeated_crops": runs.config(data__repeat_epochs=claim.repeat_epochs)}
  return {name: runs.train(claim.reference, name, bits, changed) for name, changed in configs.items()}


def before_weight_training(runs: SeedRuns) -> dict[str, Any]:
  """Judges the selection and the assignment by sensitivity on the test images, straight from the meta-state."""
  config = runs.config()
  context = runs.context(config)
  assignments = {
      "selected": selected_by_reference(runs, config), "sensitivity": selected_by_sensitivity(runs, context, config)}
  judge = evaluation_judge(context, load_meta_state(context, runs.folder(runs.claim.reference)))
  return {"loss_on_meta_state": {
      name: float(np.mean(judge.score(bits).losses, dtype=np.float64)) for name, bits in assignments.items()}}
