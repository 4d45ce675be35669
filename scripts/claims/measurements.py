"""What is run and measured for each claim of the paper, for one seed; claims.statements judges it.

Each function takes the runs of a seed and returns values for JSON. Top-1 is in percent on the whole evaluation split,
losses in nats, costs in GBOPs of one image, times in seconds. claims.own_claims has the claims that are ours.
"""

from collections.abc import Callable, Mapping
import json
from typing import Any

import numpy as np

from claims import own_claims
from claims.ablations import joint_program, last_width_alone, moving_weights
from claims.runs import SeedRuns
from claims.shared_runs import (
  full_precision_state,
  only_target,
  quantized_meta_state,
  reference_summary,
  search_together,
  selected_by_reference,
  selected_by_sensitivity,
  target_of,
)
from claims.statements import movement
from claims.step_times import median_seconds, steps_of_search
from metamix_jax.method.assignments import draw_assignments
from metamix_jax.method.bops import complete_bits, gbops, uniform_bits, uniform_widths
from metamix_jax.training.judge import evaluation_judge
from metamix_jax.training.saved_search import load_meta_state


def mixed_against_uniform(runs: SeedRuns) -> dict[str, Any]:
  """Trains the selection, the uniform assignments around its cost, random ones, and that of the sensitivity."""
  claim, config = runs.claim, runs.config()
  selected, context = selected_by_reference(runs, config), runs.context(config)
  layers = context.network.layers
  cost = gbops(layers, complete_bits(layers, selected))
  assignments = {"selected": selected} | {
      f"uniform_{bits}": _of_searched(layers, uniform_bits(layers, bits)) for bits in _widths_around(layers, cost)}
  rng = np.random.default_rng([runs.seed, claim.num_random])
  drawn = draw_assignments(layers, cost, (1 + claim.random_excess) * cost, claim.num_random, rng)
  assignments |= {f"random_{number}": bits for number, bits in enumerate(drawn)}
  assignments["sensitivity"] = selected_by_sensitivity(runs, context, config)
  return {name: runs.train(claim.reference, name, bits, config) for name, bits in assignments.items()}


def fixed_against_moving(runs: SeedRuns) -> dict[str, Any]:
  """Searches while the weights move, trains both selections, and judges both on the fixed meta-state."""
  config, name = runs.config(), "moving_weights"
  fixed = selected_by_reference(runs, config)
  moving = only_target(runs.search(name, config, moving_weights))["bits"]
  context = runs.context(config)
  judge = evaluation_judge(context, load_meta_state(context, runs.folder(runs.claim.reference)))
  return {
      "fixed": runs.train(runs.claim.reference, "selected", fixed, config),
      "moving": runs.train(name, "selected", moving, config),
      "loss_on_fixed_meta_state": {
          which: float(np.mean(judge.score(bits).losses, dtype=np.float64))
          for which, bits in (("fixed", fixed), ("moving", moving))}}


def activation_statistics(runs: SeedRuns) -> dict[str, Any]:
  """Reads distances between bit-widths, and running variances with the method and without."""
  stability = reference_summary(runs, runs.config())["activation_stability"]
  search_together(runs)
  context = runs.context(runs.config())
  variances = {
      which: _running_variances(runs.folder(name) / "metrics.jsonl", runs.claim.first_steps)
      for which, name in (("with", runs.claim.reference), ("without", "searched_together"))}
  depthwise = [f"{layer.name}_norm" for layer in context.network.layers if layer.kind == "depthwise"]
  return {
      "distance": {when: dict(distances) for when, distances in stability.items()},
      "movement": {
          which: {name: movement(series["steps"], values, context.data.steps_per_epoch)
                  for name, values in series["layers"].items()}
          for which, series in variances.items()},
      "depthwise_running_variance": {
          which: {"steps": series["steps"], "layers": {name: series["layers"][name] for name in depthwise}}
          for which, series in variances.items()}}


def quarter_of_the_epochs(runs: SeedRuns) -> dict[str, Any]:
  """Trains the selected bits from the meta-state for a quarter of the epochs, from full precision for all of them."""
  claim, short = runs.claim, runs.config()
  bits = selected_by_reference(runs, short)
  full = runs.config(stage_a__epochs=claim.full_epochs[0], stage_b__epochs=claim.full_epochs[1])

  def start(context):
    return full_precision_state(runs, context)

  return {
      "meta_state_quarter": runs.train(claim.reference, "selected", bits, short),
      "full_precision_quarter": runs.train(claim.reference, "from_full_precision", bits, short, start),
      "full_precision_all": runs.train(claim.reference, "from_full_precision_all_epochs", bits, full, start)}


def full_precision_weights(runs: SeedRuns) -> dict[str, Any]:
  """Trains a meta-state whose weights are quantised, then the selected bits from it as from the reference's."""
  claim, config = runs.claim, runs.config()
  bits, stability = selected_by_reference(runs, config), reference_summary(runs, config)["activation_stability"]
  distance, meta = quantized_meta_state(runs, config)
  return {
      "distance": {"full_precision": dict(stability["after"]), "quantized": distance},
      "full_precision": runs.train(claim.reference, "selected", bits, config),
      "quantized": runs.train(claim.reference, "from_quantized_weights", bits, config, lambda context: meta)}


def where_high_bits_land(runs: SeedRuns) -> dict[str, Any]:
  """Reads the reference's selections and the kinds of the layers, in network order."""
  config = runs.config()
  summary = reference_summary(runs, config)
  layers = runs.context(config).network.layers
  return {
      "kinds": {layer.name: layer.kind for layer in layers if layer.searched},
      "bits": {f"{target['target_gbops']:g}": dict(target["bits"]) for target in summary["targets"]}}


def cost_of_search(runs: SeedRuns) -> dict[str, Any]:
  """Searches weights and bits together with as many passes as the method's search, trains both, and times the steps."""
  claim, config = runs.claim, runs.config()
  together = only_target(search_together(runs))
  epochs, context = config.bit_selection, runs.context(config)
  per_epoch = context.data.steps_per_epoch
  joint = joint_program(context)
  steps = steps_of_search(
      runs, context, claim.reference, joint=lambda meta, archs, batch: joint(meta, archs, batch)[0])
  return {
      "method": runs.train(claim.reference, "selected", selected_by_reference(runs, config), config),
      "together": runs.train("searched_together", "selected", together["bits"], config),
      "steps": {
          "bit_meta": epochs.epochs * per_epoch, "bit_search": (epochs.epochs - epochs.meta_only_epochs) * per_epoch,
          "joint": claim.together_epochs * per_epoch},
      "seconds_of_a_step": median_seconds(steps, claim.timed_steps)}


def mean_against_last(runs: SeedRuns) -> dict[str, Any]:
  """Searches with the gradient of the last bit-width alone, and trains both selections."""
  config, name = runs.config(), "last_width_alone"
  summary, mean = runs.search(name, config, last_width_alone), reference_summary(runs, config)
  last = only_target(summary)
  return {
      "mean": runs.train(runs.claim.reference, "selected", selected_by_reference(runs, config), config),
      "last": runs.train(name, "selected", last["bits"], config),
      "meta_state_top1": {
          "mean": target_of(mean, config.arch.target_gbops)["meta_state_top1"], "last": last["meta_state_top1"]},
      "uniform_top1": {
          which: {str(result["bits"]): result["top1"] for result in found["uniform"]}
          for which, found in (("mean", mean), ("last", summary))}}


MEASUREMENTS: Mapping[str, Callable[[SeedRuns], dict[str, Any]]] = {
    "a": mixed_against_uniform, "b": fixed_against_moving, "c": activation_statistics, "d": quarter_of_the_epochs,
    "e": full_precision_weights, "f": where_high_bits_land, "g": cost_of_search, "h": mean_against_last,
    "i": mixed_against_uniform, "j": own_claims.spent_target, "k": own_claims.weights_that_moved,
    "l": own_claims.searched_weights, "m": own_claims.all_epochs, "n": own_claims.kept_targets,
    "o": own_claims.before_weight_training}


def _of_searched(layers, bits):
  return {layer.name: bits[layer.name] for layer in layers if layer.searched}


def _widths_around(layers, cost):
  """Returns the uniform bit-widths next below and next above a cost."""
  costs = {bits: gbops(layers, uniform_bits(layers, bits)) for bits in uniform_widths(layers)}
  return max(b for b in costs if costs[b] <= cost), min(b for b in costs if costs[b] > cost)


def _running_variances(path, first_steps):
  """Returns {"steps", "layers": {name: values}} of the bit selection's lines, up to a step."""
  lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
  lines = [line for line in lines if line["phase"] == "bit_selection" and line["step"] <= first_steps]
  prefix = "running_variance/"
  names = [name for name in lines[0] if name.startswith(prefix)]
  return {"steps": [line["step"] for line in lines],
          "layers": {name.removeprefix(prefix): [line[name] for line in lines] for name in names}}
