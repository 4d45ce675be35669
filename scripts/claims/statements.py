"""From the results of the seeds to the statements of each claim: pure functions, the first statement is the verdict.

Each function takes what claims.measurements returned, one entry a seed, and the rules of the claim's config by name.
Differences are positive where the paper is right.
"""

from collections.abc import Callable, Mapping, Sequence
import itertools
import math
import statistics
from typing import Any, TypeAlias

from claims.verdicts import Rule, Statement, on_the_line

Values: TypeAlias = Mapping[str, Any]
Rules: TypeAlias = Mapping[str, Rule]

TOP1, PERCENT, BITS, NATS = "points of top-1", "%", "bits", "nats"


def mixed_against_uniform(seeds: Sequence[Values], rules: Rules) -> list[Statement]:
  """Claims a and i: the selection after weight training, beside everything else of its cost."""
  def beside(others):
    return [seed["selected"]["top1"] - others(seed) for seed in seeds]

  return [
      _statement(
          "the selection is above the straight line between the uniform assignments, at its cost", TOP1,
          beside(lambda seed: _uniform_at(seed["selected"]["gbops"], seed)), rules["line"]),
      _statement(
          "the selection is above the mean of random assignments of its cost", TOP1,
          beside(lambda seed: statistics.fmean(
              arm["top1"] for name, arm in seed.items() if name.startswith("random_"))), rules["random"]),
      _statement(
          "the selection is above the assignment by sensitivity for the same target", TOP1,
          beside(lambda seed: seed["sensitivity"]["top1"]), rules["sensitivity"])]


def spent_target(seeds: Sequence[Values], rules: Rules) -> list[Statement]:
  """Claim j: the selection that spends its target, beside the sensitivity and beside the one of claim a."""
  def above(other):
    return [seed["spent"]["top1"] - seed[other]["top1"] for seed in seeds]

  return [
      _statement(
          "a selection that spends its target reaches the assignment by sensitivity", TOP1, above("sensitivity"),
          rules["reaches"]),
      _statement(
          "a selection that spends its target is above one that leaves 3 % of it", TOP1, above("selected"),
          rules["gain"])]


def fixed_against_moving(seeds: Sequence[Values], rules: Rules) -> list[Statement]:
  """Claim b: bits searched on the fixed meta-state, or while the weights move."""
  losses = [seed["loss_on_fixed_meta_state"] for seed in seeds]
  return [
      _statement(
          "after weight training, the search on the fixed meta-state is above the one on moving weights", TOP1,
          [seed["fixed"]["top1"] - seed["moving"]["top1"] for seed in seeds], rules["trained"]),
      _statement(
          "straight from the fixed meta-state, its bits have the lower loss", NATS,
          [loss["moving"] - loss["fixed"] for loss in losses], rules["loss"])]


def weights_that_moved(seeds: Sequence[Values], rules: Rules) -> list[Statement]:
  """Claim k: what leads in claim b, the bits of the search on moving weights or the weights that moved."""
  return [
      _statement(
          "bits searched on moving weights end higher from those weights than from the fixed meta-state", TOP1,
          [seed["moving"]["top1"] - seed["moving_bits"]["top1"] for seed in seeds], rules["weights"]),
      _statement(
          "trained from the fixed meta-state, the bits of the search on it reach those searched on moving weights",
          TOP1, [seed["fixed"]["top1"] - seed["moving_bits"]["top1"] for seed in seeds], rules["bits"]),
      _statement(
          "where both spend their target, the search on the fixed meta-state is above the one on moving weights", TOP1,
          [seed["fixed_spent"]["top1"] - seed["moving_spent"]["top1"] for seed in seeds], rules["spent"])]


def activation_statistics(seeds: Sequence[Values], rules: Rules) -> list[Statement]:
  """Claim c: distances between bit-widths, and movement of running variances over time."""
  def moved(seed, which, layers):
    return statistics.fmean(seed["movement"][which][name] for name in layers(seed))

  every = lambda seed: seed["movement"]["with"]
  depthwise = lambda seed: seed["depthwise_running_variance"]["with"]["layers"]
  return [
      _statement(
          "bit-meta training brings the statistics at different bit-widths nearer to each other", PERCENT,
          [_percent_less(_mean_distance(seed["distance"]["before"]), _mean_distance(seed["distance"]["after"]))
           for seed in seeds], rules["distance"]),
      *(_statement(
          f"running variances of {which} layers move less from epoch to epoch than where both are searched together",
          PERCENT, [_percent_less(moved(seed, "without", layers), moved(seed, "with", layers)) for seed in seeds],
          rules["movement"]) for which, layers in (("all batch-norm", every), ("depthwise", depthwise)))]


def movement(steps: Sequence[int], variances: Sequence[float], steps_per_epoch: int) -> float:
  """Returns how much a running variance moves from epoch to epoch, in percent.

  This is the mean |difference| between the means of ln v over the records of one epoch and of the next. Within an epoch
  a running variance follows the last few batches: three updates a step in bit-meta training, one in other training, so
  that single records of the two cannot be compared.

  Args:
    steps: of each record, from 1.
    variances: of each record.
    steps_per_epoch: steps of an epoch.
  """
  epochs: dict[int, list[float]] = {}
  for step, variance in zip(steps, variances, strict=True):
    epochs.setdefault((step - 1) // steps_per_epoch, []).append(math.log(variance))
  means = [statistics.fmean(values) for values in epochs.values()]
  return 100 * statistics.fmean(abs(after - before) for before, after in itertools.pairwise(means))


def quarter_of_the_epochs(seeds: Sequence[Values], rules: Rules) -> list[Statement]:
  """Claim d: weight training from the meta-state or from full precision."""
  top1 = lambda which: [seed[which]["top1"] for seed in seeds]
  return [
      _statement(
          "from the meta-state, a quarter of the epochs reaches what all epochs reach from full precision", TOP1,
          _differences(top1("meta_state_quarter"), top1("full_precision_all")), rules["reaches"]),
      _statement(
          "in the same quarter of the epochs, the meta-state is above full precision", TOP1,
          _differences(top1("meta_state_quarter"), top1("full_precision_quarter")), rules["same_epochs"])]


def full_precision_weights(seeds: Sequence[Values], rules: Rules) -> list[Statement]:
  """Claim e: weights of bit-meta training in full precision, or quantised."""
  return [
      _statement(
          "with full-precision weights, the statistics at different bit-widths are nearer to each other", PERCENT,
          [_percent_less(_mean_distance(seed["distance"]["quantized"]),
                         _mean_distance(seed["distance"]["full_precision"])) for seed in seeds], rules["distance"]),
      _statement(
          "the same bits, trained from the meta-state with full-precision weights, are above", TOP1,
          [seed["full_precision"]["top1"] - seed["quantized"]["top1"] for seed in seeds], rules["trained"])]


def where_high_bits_land(seeds: Sequence[Values], rules: Rules, early: int, late: int, target: str) -> list[Statement]:
  """Claim f: bits of the first `early` and last `late` depthwise layers, for one target."""
  beside_others, beside_middle = [], []
  for seed in seeds:
    bits = seed["bits"][target]
    depthwise = [name for name, kind in seed["kinds"].items() if kind == "depthwise"]
    ends = depthwise[:early] + depthwise[len(depthwise) - late:]
    mean = lambda names, bits=bits: statistics.fmean(bits[name] for name in names)
    beside_others.append(mean(ends) - mean([name for name in bits if name not in ends]))
    beside_middle.append(mean(ends) - mean([name for name in depthwise if name not in ends]))
  return [
      _statement(
          f"the first {early} and last {late} depthwise layers have more bits than the other searched layers", BITS,
          beside_others, rules["others"]),
      _statement(
          f"the first {early} and last {late} depthwise layers have more bits than those between them", BITS,
          beside_middle, rules["middle"])]


def cost_of_search(seeds: Sequence[Values], rules: Rules) -> list[Statement]:
  """Claim g: the method, or weights and bits together, with as many passes through the network."""
  return [
      _statement(
          "with as many passes, the method's search ends above a search of weights and bits together", TOP1,
          [seed["method"]["top1"] - seed["together"]["top1"] for seed in seeds], rules["same_passes"]),
      _statement(
          "the method's steps take less time than those of that search", PERCENT,
          [_percent_less(*search_seconds(seed)[::-1]) for seed in seeds], rules["seconds"])]


def search_seconds(seed: Values) -> tuple[float, float]:
  """Returns the seconds of all steps of the method's search for one target, and of the search of both together."""
  total = {name: seed["steps"][name] * seed["seconds_of_a_step"][name] for name in seed["steps"]}
  return total["bit_meta"] + total["bit_search"], total["joint"]


def mean_against_last(seeds: Sequence[Values], rules: Rules) -> list[Statement]:
  """Claim h: the gradient of the mean over the bit-widths, or of the last one alone."""
  def at_lowest(seed, which):
    top1s = seed["uniform_top1"][which]
    return top1s[min(top1s, key=int)]

  return [
      _statement(
          "after weight training, the mean of the gradients is above the last bit-width's alone", TOP1,
          [seed["mean"]["top1"] - seed["last"]["top1"] for seed in seeds], rules["trained"]),
      _statement(
          "straight from the meta-state, its selection is above", TOP1,
          [seed["meta_state_top1"]["mean"] - seed["meta_state_top1"]["last"] for seed in seeds], rules["meta_state"]),
      _statement(
          "straight from the meta-state, the lowest uniform bit-width is above", TOP1,
          [at_lowest(seed, "mean") - at_lowest(seed, "last") for seed in seeds], rules["meta_state"])]


def searched_weights(seeds: Sequence[Values], rules: Rules) -> list[Statement]:
  """Claim l: bits of weights searched too, beside bits of activations alone and uniform ones."""
  both = [seed["activations_and_weights"] for seed in seeds]
  search_times = [_seconds_of_iterations(seed["seconds_of_a_step"]) for seed in seeds]
  return [
      _statement(
          "bits of activations and weights, searched together, are above those of activations alone", TOP1,
          [arm["top1"] - seed["activations_alone"]["top1"] for arm, seed in zip(both, seeds, strict=True)],
          rules["alone"]),
      _statement(
          "they are above the straight line between the uniform assignments, at their cost", TOP1,
          [arm["top1"] - _uniform_at(arm["gbops"], seed) for arm, seed in zip(both, seeds, strict=True)],
          rules["line"]),
      _statement(
          "an iteration of the search of both takes less than twice the time of one of activations alone", PERCENT,
          [_percent_less(2 * alone, together) for alone, together in search_times], rules["time"])]


def all_epochs(seeds: Sequence[Values], rules: Rules) -> list[Statement]:
  """Claim m: the comparisons of claims g, e and d, with all epochs of weight training."""
  def beside(other):
    return [seed["method"]["top1"] - seed[other]["top1"] for seed in seeds]

  return [
      _statement(
          "claim g: the method's search reaches the search of weights and bits together", TOP1, beside("together"),
          rules["reaches"]),
      _statement(
          "claim e: the meta-state with full-precision weights reaches the one with quantised weights", TOP1,
          beside("quantized"), rules["reaches"]),
      _statement("claim d: the meta-state reaches full precision", TOP1, beside("full_precision"), rules["reaches"])]


def kept_targets(seeds: Sequence[Values], rules: Rules) -> list[Statement]:
  """Claim n: fewer classes of the teacher's targets, and crops that come again."""
  return [
      _statement(
          words, TOP1, [seed[arm]["top1"] - seed["selected"]["top1"] for seed in seeds], rules["reaches"])
      for arm, words in (
          ("kept_classes", "targets of the highest classes alone reach those of all classes"),
          ("repeated_crops", "crops that come again reach crops that never do"))]


def before_weight_training(seeds: Sequence[Values], rules: Rules) -> list[Statement]:
  """Claim o: the selection beside the assignment by sensitivity, on the meta-state."""
  losses = [seed["loss_on_meta_state"] for seed in seeds]
  return [_statement(
      "straight from the meta-state, the assignment by sensitivity has a lower loss than the selection", NATS,
      [loss["selected"] - loss["sensitivity"] for loss in losses], rules["loss"])]


STATEMENTS: Mapping[str, Callable[..., list[Statement]]] = {
    "a": mixed_against_uniform, "b": fixed_against_moving, "c": activation_statistics, "d": quarter_of_the_epochs,
    "e": full_precision_weights, "f": where_high_bits_land, "g": cost_of_search, "h": mean_against_last,
    "i": mixed_against_uniform, "j": spent_target, "k": weights_that_moved, "l": searched_weights, "m": all_epochs,
    "n": kept_targets, "o": before_weight_training}


def _uniform_at(gbops, seed):
  points = [(arm["gbops"], arm["top1"]) for name, arm in seed.items() if name.startswith("uniform_")]
  return on_the_line(gbops, points)


def _seconds_of_iterations(seconds):
  """Returns the seconds of a bit-meta step and a bit-search step, of activations alone and of both."""
  return tuple(seconds[f"bit_meta_{which}"] + seconds[f"bit_search_{which}"] for which in ("alone", "both"))


def _mean_distance(distances):
  """Returns the mean over the layers whose statistics depend on bits: what reads a fixed layer has a distance of 0."""
  return statistics.fmean(distance for distance in distances.values() if distance > 0)


def _percent_less(larger, smaller):
  return 100 * (larger - smaller) / larger


def _differences(first, second):
  return [a - b for a, b in zip(first, second, strict=True)]


def _statement(words, unit, differences, rule):
  return Statement(words, unit, tuple(differences), rule)
