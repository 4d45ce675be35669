"""Evaluation and statistics of batch norms: the same on any number of devices, and the host two steps ahead."""

import collections
import dataclasses

import jax
import numpy as np
import pytest

from metamix_jax.training import context, evaluation, parallel, phases
from tests.helpers.configs import tiny_config


def test_evaluation_and_statistics_are_two_steps_ahead(data_dir, monkeypatch):
  """15 and 5 batches; the results of all but three have always been fetched."""
  config = tiny_config(data_dir)
  config.evaluation_batch_size, config.reestimation_batches = 32, 5
  work = context.prepare(config)
  steps, in_flight = collections.Counter(), [0]

  def watched(name):
    def call(*arguments):
      steps[name] += 1
      in_flight.append(in_flight[-1] + 1)
      return getattr(work.programs, name)(*arguments)
    return call

  def fetched(tree, device_get=jax.device_get):
    in_flight.append(in_flight[-1] - 1)
    return device_get(tree)

  names = ("evaluation_step", "batch_moments_step")
  programs = work.programs._replace(**{name: watched(name) for name in names})
  on_watched = dataclasses.replace(work, programs=programs)
  meta = work.replicate(phases.create_student(work))
  monkeypatch.setattr(jax, "device_get", fetched)
  evaluation.evaluate(on_watched, meta, {})
  assert steps == {"evaluation_step": 15} and max(in_flight) == 3 and in_flight[-1] == 0
  evaluation.reestimate_batch_statistics(on_watched, meta, {})
  assert steps["batch_moments_step"] == 5 and max(in_flight) == 3 and in_flight[-1] == 0


@pytest.mark.parametrize("num_devices", [1, 2, 4])
def test_evaluation_is_the_same_on_any_number_of_devices(num_devices, data_dir):
  """450 images in batches of 128 over 1, 2 and 4 devices: 62 of the last batch are padding."""
  work = context.prepare(tiny_config(data_dir))
  on_few = dataclasses.replace(work, programs=parallel.make_programs(jax.devices()[:num_devices]))
  meta = phases.create_student(on_few)
  top1 = evaluation.evaluate(on_few, on_few.replicate(meta), {})
  expected = []
  for batch in work.data.evaluation_batches():
    logits = meta.network.module.apply(
        {"params": meta.weights, "batch_stats": meta.batch_stats}, meta.network.normalize(batch["image"]), train=False)
    expected.extend((np.argmax(logits, -1) == batch["label"])[batch["mask"] > 0])
  assert len(expected) == 450
  assert top1 == 100 * np.sum(expected) / 450
