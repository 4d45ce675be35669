"""What is run and measured for each claim, for one seed; claims.statements judges it.

Each function takes the runs of a seed and returns values for JSON. Top-1 is in percent on the whole evaluation split,
losses in nats, costs in GBOPs of one image, times in seconds.
"""

from collections.abc import Callable, Mapping
import json
import statistics
import time
from typing import Any

from flax import traverse_util
import jax
import numpy as np

from claims.ablations import joint_program, last_width_alone, moving_weights, searched_together
from claims.runs import SeedRuns
from claims.statements import movement
from metamix_jax.experiment import on_host
from metamix_jax.method.assignments import assign_by_sensitivity, draw_assignments
from metamix_jax.method.bops import gbops, uniform_bits, uniform_widths
from metamix_jax.method.selection import select_within_target
from metamix_jax.records.alpha import read_alpha
from metamix_jax.records.names import TRAINING_PHASES
from metamix_jax.training import phases
from metamix_jax.training.context import TrainingContext
from metamix_jax.training.judge import evaluation_judge
from metamix_jax.training.saved_search import load_full_precision, load_meta_state
from metamix_jax.training.sensitivity import measure_sensitivity
from metamix_jax.training.stability import measure_stability
from metamix_jax.training.state import MetaState


def mixed_against_uniform(runs: SeedRuns) -> dict[str, Any]:
  """Trains the selection, the uniform assignments around its cost, random ones, and that of the sensitivity."""
  claim, config = runs.claim, runs.config()
  selected, cost = _selected(runs, config), _reference(runs, config)["gbops"]
  context = runs.context(config)
  layers = context.network.layers
  assignments = {"selected": selected} | {
      f"uniform_{bits}": _of_searched(layers, uniform_bits(layers, bits)) for bits in _widths_around(layers, cost)}
  rng = np.random.default_rng([runs.seed, claim.num_random])
  drawn = draw_assignments(layers, cost, (1 + claim.random_excess) * cost, claim.num_random, rng)
  assignments |= {f"random_{number}": bits for number, bits in enumerate(drawn)}
  assignments["sensitivity"] = _by_sensitivity(runs, context, config)
  return {name: runs.train(claim.reference, name, bits, config) for name, bits in assignments.items()}


def spent_target(runs: SeedRuns) -> dict[str, Any]:
  """Trains the selection that leaves less of the target, beside two assignments of claim a."""
  claim, config = runs.claim, runs.config()
  selected, context = _selected(runs, config), runs.context(config)
  assignments = {
      "spent": select_at_tolerance(runs, config, claim.reference, claim.tolerance), "selected": selected,
      "sensitivity": _by_sensitivity(runs, context, config)}
  return {name: runs.train(claim.reference, name, bits, config) for name, bits in assignments.items()}


def fixed_against_moving(runs: SeedRuns) -> dict[str, Any]:
  """Searches while the weights move, trains both selections, and judges both on the fixed meta-state."""
  config, name = runs.config(), "moving_weights"
  fixed = _selected(runs, config)
  moving = _only_target(runs.search(name, config, moving_weights))["bits"]
  context = runs.context(config)
  judge = evaluation_judge(context, load_meta_state(context, runs.folder(runs.claim.reference)))
  return {
      "fixed": runs.train(runs.claim.reference, "selected", fixed, config),
      "moving": runs.train(name, "selected", moving, config),
      "loss_on_fixed_meta_state": {
          which: float(np.mean(judge.score(bits).losses, dtype=np.float64))
          for which, bits in (("fixed", fixed), ("moving", moving))}}


def weights_that_moved(runs: SeedRuns) -> dict[str, Any]:
  """Trains the bits of the search on moving weights from the fixed meta-state too, and both searches' target spent."""
  claim, config, name = runs.claim, runs.config(), "moving_weights"
  fixed = _selected(runs, config)
  moving = _only_target(runs.search(name, config, moving_weights))["bits"]

  def spent(search):
    return select_at_tolerance(runs, config, search, claim.tolerance)

  return {
      "fixed": runs.train(claim.reference, "selected", fixed, config),
      "moving": runs.train(name, "selected", moving, config),
      "moving_bits": runs.train(claim.reference, "of_moving_weights", moving, config),
      "fixed_spent": runs.train(claim.reference, "spent", spent(claim.reference), config),
      "moving_spent": runs.train(name, "spent", spent(name), config)}


def select_at_tolerance(runs: SeedRuns, config, search: str, tolerance: float) -> dict[str, int]:
  """Returns what the alpha of a finished search selects where no more than `tolerance` of the target may be left."""
  layers, target_gbops = runs.context(config).network.layers, config.arch.target_gbops
  alpha = read_alpha(runs.folder(search), layers)[target_gbops]
  return select_within_target(layers, alpha, target_gbops, tolerance)


def activation_statistics(runs: SeedRuns) -> dict[str, Any]:
  """Reads distances between bit-widths, and running variances with the method and without."""
  stability = _reference_summary(runs, runs.config())["activation_stability"]
  _searched_together(runs)
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
  bits = _selected(runs, short)
  full = runs.config(stage_a__epochs=claim.full_epochs[0], stage_b__epochs=claim.full_epochs[1])

  def start(context: TrainingContext) -> MetaState:
    return phases.start_step_sizes(context, load_full_precision(context, runs.folder(claim.reference)))

  return {
      "meta_state_quarter": runs.train(claim.reference, "selected", bits, short),
      "full_precision_quarter": runs.train(claim.reference, "from_full_precision", bits, short, start),
      "full_precision_all": runs.train(claim.reference, "from_full_precision_all_epochs", bits, full, start)}


def full_precision_weights(runs: SeedRuns) -> dict[str, Any]:
  """Trains a meta-state whose weights are quantised, then the selected bits from it as from the reference's."""
  claim, config = runs.claim, runs.config()
  bits, stability = _selected(runs, config), _reference_summary(runs, config)["activation_stability"]

  def start(context: TrainingContext) -> MetaState:
    full_precision = load_full_precision(context, runs.folder(claim.reference))
    return phases.start_step_sizes(context, full_precision).with_weight_step_sizes()

  results, meta = runs.meta_state(
      claim.reference, "quantized_weights", config, start,
      lambda context, meta: {"distance": measure_stability(context, meta)})
  return {
      "distance": {"full_precision": dict(stability["after"]), "quantized": results["distance"]},
      "full_precision": runs.train(claim.reference, "selected", bits, config),
      "quantized": runs.train(
          claim.reference, "from_quantized_weights", bits, config, lambda context: without_weight_step_sizes(meta))}


def without_weight_step_sizes(meta: MetaState) -> MetaState:
  """Returns the state with full-precision weights: stage A of weight training starts so."""
  leaves = traverse_util.flatten_dict(meta.step_sizes)
  return meta.replace(step_sizes=traverse_util.unflatten_dict(
      {path: leaf for path, leaf in leaves.items() if path[-1] != "weight"}))


def where_high_bits_land(runs: SeedRuns) -> dict[str, Any]:
  """Reads the reference's selections and the kinds of the layers, in network order."""
  config = runs.config()
  summary = _reference_summary(runs, config)
  layers = runs.context(config).network.layers
  return {
      "kinds": {layer.name: layer.kind for layer in layers if layer.searched},
      "bits": {f"{target['target_gbops']:g}": dict(target["bits"]) for target in summary["targets"]}}


def cost_of_search(runs: SeedRuns) -> dict[str, Any]:
  """Searches weights and bits together with as many passes as the method's search, trains both, and times the steps."""
  claim, config = runs.claim, runs.config()
  together = _only_target(_searched_together(runs))
  epochs, context = config.bit_selection, runs.context(config)
  per_epoch = context.data.steps_per_epoch
  return {
      "method": runs.train(claim.reference, "selected", _selected(runs, config), config),
      "together": runs.train("searched_together", "selected", together["bits"], config),
      "steps": {
          "bit_meta": epochs.epochs * per_epoch, "bit_search": (epochs.epochs - epochs.meta_only_epochs) * per_epoch,
          "joint": claim.together_epochs * per_epoch},
      "seconds_of_a_step": _time_steps(runs, context, claim.timed_steps)}


def mean_against_last(runs: SeedRuns) -> dict[str, Any]:
  """Searches with the gradient of the last bit-width alone, and trains both selections."""
  config, name = runs.config(), "last_width_alone"
  summary, mean = runs.search(name, config, last_width_alone), _reference_summary(runs, config)
  last = _only_target(summary)
  return {
      "mean": runs.train(runs.claim.reference, "selected", _selected(runs, config), config),
      "last": runs.train(name, "selected", last["bits"], config),
      "meta_state_top1": {
          "mean": _target(mean, config.arch.target_gbops)["meta_state_top1"], "last": last["meta_state_top1"]},
      "uniform_top1": {
          which: {str(result["bits"]): result["top1"] for result in found["uniform"]}
          for which, found in (("mean", mean), ("last", summary))}}


MEASUREMENTS: Mapping[str, Callable[[SeedRuns], dict[str, Any]]] = {
    "a": mixed_against_uniform, "b": fixed_against_moving, "c": activation_statistics, "d": quarter_of_the_epochs,
    "e": full_precision_weights, "f": where_high_bits_land, "g": cost_of_search, "h": mean_against_last,
    "i": mixed_against_uniform, "j": spent_target, "k": weights_that_moved}


def _reference_summary(runs, config):
  """Returns the summary of the method's search, which most claims share."""
  config = runs.config(arch__target_gbops=tuple(runs.claim.reference_targets))
  return runs.search(runs.claim.reference, config)


def _reference(runs, config):
  """Returns what the method selected for the target of a config."""
  return _target(_reference_summary(runs, config), config.arch.target_gbops)


def _selected(runs, config):
  return _reference(runs, config)["bits"]


def _searched_together(runs):
  config = runs.config(bit_selection__epochs=runs.claim.together_epochs, bit_selection__meta_only_epochs=0)
  return runs.search("searched_together", config, searched_together)


def _target(summary, target_gbops):
  return next(target for target in summary["targets"] if target["target_gbops"] == target_gbops)


def _only_target(summary):
  target, = summary["targets"]
  return target


def _of_searched(layers, bits):
  return {layer.name: bits[layer.name] for layer in layers if layer.searched}


def _widths_around(layers, cost):
  """Returns the uniform bit-widths next below and next above a cost."""
  costs = {bits: gbops(layers, uniform_bits(layers, bits)) for bits in uniform_widths(layers)}
  return max(b for b in costs if costs[b] <= cost), min(b for b in costs if costs[b] > cost)


def _by_sensitivity(runs, context, config):
  """Assigns bits by the loss of one layer at a time on training images, straight from the reference's meta-state."""
  folder = runs.folder(runs.claim.reference)
  losses = measure_sensitivity(context, load_meta_state(context, folder), folder, runs.claim.judging_batches)
  return assign_by_sensitivity(
      context.network.layers, losses, config.arch.target_gbops, config.arch.target_tolerance)


def _running_variances(path, first_steps):
  """Returns {"steps", "layers": {name: values}} of the bit selection's lines, up to a step."""
  lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
  lines = [line for line in lines if line["phase"] == "bit_selection" and line["step"] <= first_steps]
  prefix = "running_variance/"
  names = [name for name in lines[0] if name.startswith(prefix)]
  return {"steps": [line["step"] for line in lines],
          "layers": {name.removeprefix(prefix): [line[name] for line in lines] for name in names}}


def _time_steps(runs, context, number):
  """Returns the median seconds of a bit-meta step, of a bit-search step for one target, and of a joint step."""
  optimizer = context.weight_optimizer(context.config.bit_selection.learning_rate)
  meta = load_meta_state(context, runs.folder(runs.claim.reference))
  meta = on_host(meta.with_optimizer(optimizer, TRAINING_PHASES.index("bit_selection")))
  archs = on_host(phases.create_architectures(context))
  batch = next(context.place(context.data.train_epoch(0)))
  batch = context.programs.label_targets(context.data.num_classes, batch)
  joint = joint_program(context)
  seconds = {}
  for name, step in (
      ("bit_meta", lambda meta, archs: (context.programs.bit_meta_step(meta, batch)[0], archs)),
      ("bit_search", lambda meta, archs: (meta, context.programs.bit_search_steps(archs, meta, batch)[0])),
      ("joint", lambda meta, archs: joint(meta, archs, batch)[0])):
    state = context.replicate((meta, archs))
    times = []
    for _ in range(number + 1):
      begun = time.perf_counter()
      state = jax.block_until_ready(step(*state))
      times.append(time.perf_counter() - begun)
    seconds[name] = statistics.median(times[1:])  # The first one compiles.
  return seconds
