"""Between two steps the host reads nothing from the devices."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metamix_jax.records import interruption
from metamix_jax.records.clock import Clock
from metamix_jax.records.metrics_file import MetricsFile
from metamix_jax.training import context, loop, phases
from metamix_jax.training.targets import LabelTargets
from tests.helpers.configs import tiny_config


class HostRead(Exception):
  pass


class Enough(Exception):
  pass


def forbid_reading(monkeypatch, array, early):
  """From here on every conversion of an array to a host value raises, and waiting for other trees than the early ones.

  jax.transfer_guard lets everything pass on CPU devices, whose memory the host can see.
  """
  def refuse(*args, **kwargs):
    raise HostRead

  def wait(tree, block_until_ready=jax.block_until_ready):
    if not any(tree is allowed for allowed in early):
      raise HostRead
    return block_until_ready(tree)

  for name in ("__array__", "__float__", "__int__", "__bool__", "__index__", "item", "tolist", "block_until_ready"):
    monkeypatch.setattr(type(array), name, refuse)
  monkeypatch.setattr(jax, "block_until_ready", wait)
  monkeypatch.setattr(jax, "device_get", refuse)
  for read in (float, int, np.asarray, jax.device_get, jax.block_until_ready):
    with pytest.raises(HostRead):
      read(array)


def test_no_step_moves_anything_to_the_host(data_dir, tmp_path, monkeypatch):
  """Between two printed, recorded or saved steps the host reads nothing from the devices, and waits for no step but the
  one two steps back."""
  config = tiny_config(data_dir)
  config.log_every_seconds = 1e6
  config.metrics.every_steps = config.checkpoints.every_steps = 1000
  work = context.prepare(config)
  meta = phases.start_step_sizes(work, phases.create_student(work))
  meta = meta.with_optimizer(work.weight_optimizer(1e-3))
  saving = loop.Saving(tmp_path, interruption.StopRequest(), MetricsFile(tmp_path))
  results, early = [], []

  def step(state, epoch, batch):
    del epoch
    if len(results) == work.data.steps_per_epoch - 1:  # The last step is printed and saved.
      raise Enough
    if len(results) == 1:  # The first step compiles, and the progress line says so.
      forbid_reading(monkeypatch, results[0]["loss"], early)
    meta, metrics = work.programs.bit_meta_step(state["meta"], batch)
    arch, _ = work.programs.bit_search_steps(state["arch"], meta, batch)
    results.append(metrics)
    early[:] = results[-3:-2]
    return {"meta": meta, "arch": arch}, metrics

  with pytest.raises(Enough):
    loop.train(
        work, loop.Phase("bit_selection", "bit_selection"), {"meta": meta, "arch": phases.create_architectures(work)},
        LabelTargets(work), step, saving=saving)
  assert len(results) == 4 == work.data.steps_per_epoch - 1


def test_the_time_for_a_batch_counts_as_waiting_where_steps_are_done(data_dir):
  work = context.prepare(tiny_config(data_dir))

  class SlowData:
    def __getattr__(self, name):
      return getattr(work.data, name)

    def train_epoch(self, epoch, first_batch=0):
      for batch in work.data.train_epoch(epoch, first_batch):
        time.sleep(0.1)
        yield batch

  clock, meta = Clock(), phases.create_student(work)
  state, _ = loop.train(
      dataclasses.replace(work, data=SlowData()), loop.Phase("stage_a", "stage_a"), {"meta": meta}, LabelTargets(work),
      lambda state, epoch, batch: (state, {"loss": jnp.float32(1).block_until_ready()}), clock=clock)
  assert clock.mark().waited >= 0.1 * work.config.stage_a.epochs * work.data.steps_per_epoch
