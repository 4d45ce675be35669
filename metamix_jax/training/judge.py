"""Judges assignments of bits straight from the meta-state, many of them on the same images."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import itertools
import json
import pathlib
from typing import NamedTuple

import numpy as np

from metamix_jax.errors import UserError
from metamix_jax.method.bops import LayerCost, complete_bits, gbops
from metamix_jax.method.precision import assigned_precision
from metamix_jax.records.files import not_written, write_text
from metamix_jax.training.context import TrainingContext
from metamix_jax.training.evaluation import average_batch_statistics, num_reestimation_batches
from metamix_jax.training.parallel import fetch
from metamix_jax.training.state import MetaState


class ImageScores(NamedTuple):
  """Holds the scores of N images: losses in nats, float32 [N], and correct predictions, bool [N]."""

  losses: np.ndarray
  correct: np.ndarray


class Judge:
  """Scores assignments on one set of images, with batch-norm statistics re-estimated for each assignment.

  All images stay on the devices, so an assignment costs its forward passes and nothing else. Scores are kept, so an
  assignment that is asked for again, such as the one that others are compared with, costs nothing.

  Attributes:
    num_images: images that the scores are of.
  """

  def __init__(self, context: TrainingContext, meta: MetaState, batches: Iterable[dict[str, np.ndarray]]):
    self._context, self._meta = context, meta.without_optimizer()
    self._statistics = list(
        itertools.islice(context.place(context.data.train_epoch(0)), num_reestimation_batches(context)))
    batches = list(batches)
    # Training batches have no padding, and so no mask.
    self._masks = [np.asarray(batch.get("mask", np.ones(len(batch["label"])))) > 0 for batch in batches]
    self._batches = list(context.place(iter(batches)))
    self.num_images = int(sum(mask.sum() for mask in self._masks))
    self._scored: dict[tuple[tuple[str, int], ...], ImageScores] = {}

  def score(self, bits: Mapping[str, int]) -> ImageScores:
    """Scores every image with the searched layers at `bits`; raises ValueError if a layer lacks its candidate."""
    key = tuple(sorted(bits.items()))
    if key not in self._scored:
      self._scored[key] = self._of_images(fetch(self._scores(bits)), self._masks)
    return self._scored[key]

  def score_in_turn(self, bits: Mapping[str, int]) -> Iterator[ImageScores]:
    """Yields the scores of one batch after the other, for a caller that may have seen enough before the last one.

    Raises ValueError as `score` does.
    """
    for scores, mask in zip(self._scores(bits), self._masks, strict=True):
      yield self._of_images(fetch(iter([scores])), [mask])

  def _scores(self, bits):
    """Yields the scores of each batch, on the devices."""
    precision = assigned_precision(self._context.network.layers, bits)
    meta = average_batch_statistics(self._context, self._meta, precision, self._statistics)
    for batch in self._batches:
      yield self._context.programs.image_scores_step(meta, precision, batch)

  @staticmethod
  def _of_images(results, masks):
    results = list(results)

    def values(name):
      return np.concatenate([np.ravel(result[name])[mask] for result, mask in zip(results, masks, strict=True)])

    return ImageScores(values("loss"), values("correct") > 0)


def evaluation_judge(context: TrainingContext, meta: MetaState, num_batches: int | None = None) -> Judge:
  """Returns a judge on the first batches of the evaluation split; None: on all."""
  return Judge(context, meta, itertools.islice(context.data.evaluation_batches(), num_batches))


def training_judge(context: TrainingContext, meta: MetaState, num_batches: int) -> Judge:
  """Returns a judge on training batches, augmentation included, after those that re-estimate batch statistics.

  Args:
    context: of the run.
    meta: the meta-state.
    num_batches: of the first epoch; all, if fewer are left in it.

  Raises:
    UserError: the batches that re-estimate batch statistics leave none.
  """
  first = num_reestimation_batches(context)
  if first == context.data.steps_per_epoch:
    raise UserError(
        f"config.reestimation_batches is {context.config.reestimation_batches}; it must be below {first}, the training"
        " batches of an epoch, or none is left to judge assignments on.")
  return Judge(context, meta, itertools.islice(context.data.train_epoch(0, first), num_batches))


# Scores bits of the searched layers, always on the same images, as Judge.score.
Score = Callable[[Mapping[str, int]], ImageScores]


def describe_assignment(score: Score, layers: Sequence[LayerCost], bits: Mapping[str, int]) -> dict[str, float]:
  """Returns {"gbops" of one image, mean "loss" in nats, "top1" in percent} of an assignment, for JSON."""
  scores = score(bits)
  return {"gbops": gbops(layers, complete_bits(layers, bits)), "loss": float(np.mean(scores.losses, dtype=np.float64)),
          "top1": 100 * float(np.mean(scores.correct))}


def compare_assignments(
    score: Score, bits: Mapping[str, int], reference: Mapping[str, int], num_resamples: int, rng: np.random.Generator
) -> tuple[float, tuple[float, float]]:
  """Compares two assignments on the same images.

  Args:
    score: scores an assignment.
    bits: of the searched layers.
    reference: other bits.
    num_resamples: of the images.
    rng: draws them.

  Returns:
    The mean of the loss of `bits` less that of `reference`, in nats, and its 95 % interval (`bootstrap_interval`).
  """
  differences = score(bits).losses.astype(np.float64) - score(reference).losses
  return float(differences.mean()), bootstrap_interval(differences, num_resamples, rng)


def bootstrap_interval(values: np.ndarray, num_resamples: int, rng: np.random.Generator) -> tuple[float, float]:
  """Returns the 2.5th and 97.5th percentile of the mean of resampled values.

  Args:
    values: float64 [N].
    num_resamples: number of resamples of N values each, with replacement.
    rng: the source of everything random.
  """
  means = [float(values[rng.integers(len(values), size=len(values))].mean()) for _ in range(num_resamples)]
  low, high = np.percentile(means, (2.5, 97.5))
  return float(low), float(high)


class ScoreFile:
  """Keeps mean scores of assignments in a file, one JSON object a line, so that a later start does not repeat them.

  Attributes:
    path: the file; its first line names what the scores depend on, and scores of another such line are thrown away.
  """

  def __init__(self, path: pathlib.Path, depends_on: Mapping[str, object]):
    self.path = path
    self._scores: dict[tuple[str, tuple[int, ...]], tuple[float, float]] = {}
    header = json.dumps(depends_on, sort_keys=True)
    try:
      text = path.read_bytes().decode(errors="replace") if path.exists() else ""
    except OSError as error:
      raise UserError(f"{path} cannot be read ({error.strerror}); delete it, or give access to it.") from error
    lines = text.splitlines()
    try:
      if lines and lines[0] == header:
        for line in lines[1:]:
          entry = json.loads(line)
          self._scores[entry["judge"], tuple(entry["bits"])] = float(entry["loss"]), float(entry["top1"])
    except (ValueError, KeyError, TypeError):
      pass  # A line that an interruption cut: its assignment is scored again.
    kept = f"{header}\n" + "".join(self._line(*key, *scores) for key, scores in self._scores.items())
    if kept != text:
      write_text(path, kept)

  def mean_scores(self, name: str, judge: Judge, bits: Mapping[str, int]) -> tuple[float, float]:
    """Returns (mean loss in nats, top-1 in percent) of an assignment, from the file or from a judge called `name`."""
    key = name, tuple(bits.values())
    if key not in self._scores:
      scores = judge.score(bits)
      self._scores[key] = float(np.mean(scores.losses, dtype=np.float64)), 100 * float(np.mean(scores.correct))
      try:
        with self.path.open("a", encoding="utf-8") as file:
          file.write(self._line(*key, *self._scores[key]))
      except OSError as error:
        raise not_written(self.path, error) from error
    return self._scores[key]

  @staticmethod
  def _line(judge: str, bits: Sequence[int], loss: float, top1: float) -> str:
    return json.dumps({"judge": judge, "bits": list(bits), "loss": loss, "top1": top1}) + "\n"
