"""How good a finished search is: its selection beside random, uniform and otherwise found assignments [A]."""

from collections.abc import Mapping
import contextlib
import pathlib
import time

import ml_collections
import numpy as np

from metamix_jax.errors import UserError
from metamix_jax.method.assignments import Bits, assign_by_sensitivity, draw_assignments, search_locally
from metamix_jax.method.bops import complete_bits, gbops, uniform_bits, uniform_widths
from metamix_jax.records.names import format_target
from metamix_jax.records.progress import show_bar
from metamix_jax.records.results import BitSelection, TargetResult
from metamix_jax.records.search_quality import AssignmentScore, Comparison, SearchQuality, TargetQuality
from metamix_jax.training.context import TrainingContext
from metamix_jax.training.fingerprint import digest_of_state
from metamix_jax.training.judge import ScoreFile, compare_assignments, evaluation_judge, training_judge
from metamix_jax.training.sensitivity import losses_one_layer_at_a_time
from metamix_jax.training.state import MetaState

_EVALUATION, _RANDOM, _TRAINING = "evaluation split", "for random assignments", "training batches"


def measure_search_quality(
    context: TrainingContext, meta: MetaState, selection: BitSelection, settings: ml_collections.ConfigDict,
    score_file: pathlib.Path,
) -> SearchQuality:
  """Measures how good the selection of every target is, straight from the fixed meta-state.

  The baselines of a target: random assignments of the same cost (draw_assignments), uniform bit-widths, the sensitivity
  of one layer at a time (assign_by_sensitivity), and a local search from there (search_locally). The last two judge on
  training images. All results are on the evaluation split, by which no assignment was chosen; random assignments are
  judged on a part of it.

  Args:
    context: of the run, in one process.
    meta: the meta-state at the end of the bit selection.
    selection: what was selected for each target.
    settings: of configs/search_quality.py.
    score_file: keeps scores between starts, so that an interrupted measurement continues.

  Raises:
    UserError: the settings do not fit the data, or no assignment costs as much as a target.
  """
  layers = context.network.layers
  if any(layer.candidate_weight_bits for layer in layers):
    raise UserError(
        "config.quantization.candidate_weight_bits is not None; the quality of a search can be measured only where bits"
        " of activations alone were searched.")
  measurement = _Measurement(context, meta, settings, score_file)
  uniform = {}
  with measurement.timed("uniform"):
    for bits in uniform_widths(layers):
      everywhere = uniform_bits(layers, bits)
      uniform[bits] = measurement.evaluated({layer.name: everywhere[layer.name] for layer in layers if layer.searched})
  with measurement.timed("sensitivity"):
    losses = losses_one_layer_at_a_time(layers, measurement.training_loss)
  targets = tuple(measurement.quality_of(target, losses) for target in selection.targets)
  return SearchQuality(
      targets, uniform, measurement.on_evaluation.num_images, measurement.beside_random.num_images, settings.to_dict(),
      measurement.seconds)


class _Measurement:
  """Scores assignments of one meta-state, and keeps the time."""

  def __init__(self, context, meta, settings, score_file):
    self.context, self.settings, self.seconds = context, settings, {}
    self.layers = context.network.layers
    self.on_evaluation = evaluation_judge(context, meta)
    self.beside_random = evaluation_judge(context, meta, settings.random_batches)
    self._on_training = training_judge(context, meta, settings.judging_batches)
    self._scores = ScoreFile(score_file, {
        "meta_state": digest_of_state(meta), "reestimation_batches": context.config.reestimation_batches,
        "num_images": self.on_evaluation.num_images, "num_random_images": self.beside_random.num_images,
        "judging_batches": settings.judging_batches})

  @contextlib.contextmanager
  def timed(self, part: str):
    """Adds the seconds of a with statement to `part`."""
    begun = time.perf_counter()
    yield
    self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - begun

  def evaluated(self, bits: Bits) -> AssignmentScore:
    """Scores an assignment on the evaluation split."""
    return self._score(_EVALUATION, self.on_evaluation, bits)

  def scored_beside_random(self, bits: Bits) -> AssignmentScore:
    """Scores an assignment on the images that random assignments are judged on."""
    return self._score(_RANDOM, self.beside_random, bits)

  def _score(self, name, judge, bits):
    loss, top1 = self._scores.mean_scores(name, judge, bits)
    return AssignmentScore(bits, gbops(self.layers, complete_bits(self.layers, bits)), loss, top1)

  def training_loss(self, bits: Bits) -> float:
    """Returns the mean loss of an assignment on the training images that may choose between assignments."""
    return self._scores.mean_scores(_TRAINING, self._on_training, bits)[0]

  def quality_of(self, target: TargetResult, losses: Mapping[str, list[float]]) -> TargetQuality:
    """Measures the selection of one target beside all baselines."""
    settings, name, least = self.settings, format_target(target.target_gbops), self._least_gbops(target)
    rng = np.random.default_rng([settings.seed, round(target.target_gbops * 1e9)])
    try:
      drawn = draw_assignments(self.layers, least, target.target_gbops, settings.num_random, rng)
    except ValueError as error:
      raise UserError(f"target {name}: {error}") from error
    with self.timed("random"):
      random = tuple(
          self.scored_beside_random(bits)
          for bits in show_bar(drawn, f"random, target {name}", len(drawn), "assignment"))
    by_sensitivity = assign_by_sensitivity(self.layers, losses, target.target_gbops, target.tolerance)
    with self.timed("local search"), show_bar(
        None, f"local search, target {name}", settings.num_local, "assignment") as bar:

      def judge(bits):
        bar.update()
        return self.training_loss(bits)

      local = search_locally(
          self.layers, by_sensitivity, target.target_gbops, judge, settings.num_local, rng)
    selected = dict(target.bits)
    comparisons = tuple(
        self._compare(label, selected, bits, rng)
        for label, bits in (("sensitivity", by_sensitivity), ("local search", local)))
    return TargetQuality(
        target.target_gbops, self.evaluated(selected), comparisons, self.scored_beside_random(selected), random)

  def _least_gbops(self, target):
    """Returns the lowest cost of a random assignment: the tolerance's, or the selection's where that is lower."""
    return min((1 - target.tolerance) * target.target_gbops, target.gbops)

  def _compare(self, name: str, selected: Bits, bits: Bits, rng: np.random.Generator) -> Comparison:
    """Compares the selection with the bits of a baseline, on the evaluation split."""
    with self.timed("comparison"):
      difference, interval = compare_assignments(
          self.on_evaluation.score, selected, bits, self.settings.num_resamples, rng)
    return Comparison(name, self.evaluated(bits), difference, interval, self.scored_beside_random(bits))
