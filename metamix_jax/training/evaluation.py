"""Accuracy of a state on the evaluation split, and batch-norm statistics that fit an assignment of bits."""

from collections.abc import Iterable, Mapping
import itertools
from typing import Any

import jax
import numpy as np

from metamix_jax.method.bops import uniform_bits, uniform_widths
from metamix_jax.method.precision import assigned_precision
from metamix_jax.records.progress import show_bar
from metamix_jax.records.results import UniformResult
from metamix_jax.training.context import TrainingContext
from metamix_jax.training.parallel import fetch
from metamix_jax.training.state import MetaState


def evaluate(context: TrainingContext, meta: MetaState, precision: Any) -> float:
  """Returns top-1 in percent on the whole evaluation split; a mask leaves the padding out."""
  meta = meta.without_optimizer()
  results = (
      context.programs.evaluation_step(meta, precision, batch)
      for batch in context.place(context.data.evaluation_batches()))
  totals = list(show_bar(fetch(results), "evaluation", context.data.num_evaluation_batches))
  correct, images = (sum(float(total[name]) for total in totals) for name in ("correct", "images"))
  return 100 * correct / images


def reestimate_batch_statistics(context: TrainingContext, meta: MetaState, precision: Any) -> MetaState:
  """Returns a copy with running statistics averaged over config.reestimation_batches batches at a precision [A]."""
  num_batches = num_reestimation_batches(context)
  batches = itertools.islice(context.place(context.data.train_epoch(0)), num_batches)
  return average_batch_statistics(
      context, meta, precision, show_bar(batches, "batch statistics", num_batches))


def num_reestimation_batches(context: TrainingContext) -> int:
  """Returns config.reestimation_batches, or the batches of an epoch where there are fewer."""
  return min(context.config.reestimation_batches, context.data.steps_per_epoch)


def average_batch_statistics(
    context: TrainingContext, meta: MetaState, precision: Any, batches: Iterable[dict[str, jax.Array]]
) -> MetaState:
  """Returns a copy with running statistics averaged over batches that are on the devices, at a precision [A]."""
  bare = meta.without_optimizer()
  moments = list(fetch(
      context.programs.batch_moments_step(bare.replace(step=np.int32(number)), precision, batch)
      for number, batch in enumerate(batches)))
  average = jax.tree.map(lambda *values: sum(values) / len(values), *moments)
  return meta.replace(batch_stats=context.replicate(average))


def evaluate_uniform_bits(context: TrainingContext, meta: MetaState) -> tuple[UniformResult, ...]:
  """Evaluates the meta-state at each uniform bit-width, with re-estimated and with shared batch-norm statistics."""
  layers, results = context.network.layers, []
  for bits in uniform_widths(layers):
    precision = assigned_precision(layers, uniform_bits(layers, bits))
    results.append(UniformResult(
        bits, layers, top1=evaluate(context, reestimate_batch_statistics(context, meta, precision), precision),
        shared_top1=evaluate(context, meta, precision)))
  return tuple(results)


def evaluate_bits(context: TrainingContext, meta: MetaState, bits: Mapping[str, int]) -> float:
  """Returns top-1 in percent of an assignment straight from the meta-state, with statistics re-estimated for it.

  Args:
    context: of the run.
    meta: the meta-state.
    bits: bits of each searched layer, by layer name.

  Raises:
    ValueError: a layer does not have this candidate.
  """
  precision = assigned_precision(context.network.layers, bits)
  return evaluate(context, reestimate_batch_statistics(context, meta, precision), precision)
