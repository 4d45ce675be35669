"""Evaluation and statistics of batch norms: the same on any number of devices, and the host two steps ahead."""

import collections
import dataclasses

import jax
import numpy as np
import pytest

from metamix_jax.method.precision import assigned_precision
from metamix_jax.training import context, evaluation, parallel, phases
from tests.helpers.configs import middle_target, tiny_config


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


@pytest.mark.parametrize("num_devices", [1, pytest.param(2, marks=pytest.mark.slow), 4])
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


def test_bits_are_evaluated_with_statistics_of_their_own(data_dir):
  """Running statistics that fit nothing: an assignment does not read them, a shared evaluation does."""
  config = tiny_config(data_dir)
  config.network.name = "tests.helpers.dense_network:DenseNetwork"
  with config.network.unlocked():
    config.network.options = {}
  config.arch.target_gbops = middle_target(config)
  work = context.prepare(config)
  meta = phases.start_step_sizes(work, phases.create_student(work))
  strange = meta.replace(batch_stats=jax.tree.map(lambda leaf: leaf + 100, meta.batch_stats))
  meta, strange = work.replicate(meta), work.replicate(strange)
  bits = {"middle": 3, "last": 8}
  precision = assigned_precision(work.network.layers, bits)
  fitting = evaluation.reestimate_batch_statistics(work, meta, precision)
  expected = evaluation.evaluate(work, fitting, precision)
  assert evaluation.evaluate_bits(work, strange, bits) == evaluation.evaluate_bits(work, meta, bits) == expected
  shared = evaluation.evaluate(work, strange, precision)
  assert abs(shared - expected) > 1

  uniform = evaluation.evaluate_uniform_bits(work, strange)
  assert [result.bits for result in uniform] == [3, 4, 8]
  for result, again in zip(uniform, evaluation.evaluate_uniform_bits(work, meta), strict=True):
    assert result.top1 == again.top1 and abs(result.shared_top1 - result.top1) > 1
