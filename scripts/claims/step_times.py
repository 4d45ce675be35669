"""What the steps of a search take, taken in turns."""

from collections.abc import Callable, Mapping
import statistics
import time
from typing import Any

import jax

from claims.runs import SeedRuns
from metamix_jax.experiment import on_host
from metamix_jax.records.names import TRAINING_PHASES
from metamix_jax.training import phases
from metamix_jax.training.context import TrainingContext
from metamix_jax.training.saved_search import load_meta_state


def steps_of_search(
    runs: SeedRuns, context: TrainingContext, search: str, **others: Callable[..., Any]
) -> dict[str, Callable[[], None]]:
  """Returns {"bit_meta", "bit_search" and others: a function that takes one more step, and waits for it}.

  Args:
    runs: of the seed.
    context: of the search.
    search: name of its folder, whose meta-state the steps start from.
    **others: further steps, (meta-state, architecture parameters, batch) -> both.
  """
  optimizer = context.weight_optimizer(context.config.bit_selection.learning_rate)
  meta = load_meta_state(context, runs.folder(search))
  meta = on_host(meta.with_optimizer(optimizer, TRAINING_PHASES.index("bit_selection")))
  archs = on_host(phases.create_architectures(context))
  batch = next(context.place(context.data.train_epoch(0)))
  batch = context.programs.label_targets(context.data.num_classes, batch)
  steps = {
      "bit_meta": lambda meta, archs, batch: (context.programs.bit_meta_step(meta, batch)[0], archs),
      "bit_search": lambda meta, archs, batch: (meta, context.programs.bit_search_steps(archs, meta, batch)[0]),
      **others}

  def repeated(step):
    state = context.replicate((meta, archs))

    def take():
      nonlocal state
      state = jax.block_until_ready(step(*state, batch))

    return take

  return {name: repeated(step) for name, step in steps.items()}


def median_seconds(steps: Mapping[str, Callable[[], None]], number: int) -> dict[str, float]:
  """Returns the median seconds of each step, taken in turns, after one of each that compiles."""
  times = {name: [] for name in steps}
  for take in steps.values():
    take()
  for _ in range(number):
    for name, take in steps.items():
      begun = time.perf_counter()
      take()
      times[name].append(time.perf_counter() - begun)
  return {name: statistics.median(values) for name, values in times.items()}
