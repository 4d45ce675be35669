"""The same global batch gives the same parameters on any number of devices and processes; the host never waits."""

import collections
import dataclasses
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from metamix_jax.records import interruption, multihost
from metamix_jax.records.metrics_file import MetricsFile
from metamix_jax.training import context, loop, parallel, phases
from tests.test_experiment import data_dir, tiny_config  # pylint: disable=unused-import  The fixture.

ROOT = pathlib.Path(__file__).parent.parent


def parameters_after_steps(folder, num_processes, devices_each):
  """Runs several_processes.py; returns its parameters."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  output = folder / f"{num_processes}x{devices_each}.npz"
  environment = os.environ | {
      "JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices_each}"}
  processes = [subprocess.Popen(
      [sys.executable, "-m", "tests.several_processes", str(process), str(num_processes), str(port), str(output)],
      cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
      for process in range(num_processes)]
  for process in processes:
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
  return dict(np.load(output))


@pytest.fixture(scope="module")
def on_one_device(tmp_path_factory):
  return parameters_after_steps(tmp_path_factory.mktemp("one"), 1, 1)


@pytest.mark.parametrize("num_processes, devices_each", [(1, 8), (2, 2), pytest.param(1, 2, marks=pytest.mark.slow)])
def test_devices_and_processes_do_not_matter(num_processes, devices_each, on_one_device, tmp_path):
  """Three bit-meta, bit-search and weight steps on one device, and on several of one or two processes."""
  one = on_one_device
  assert len(one) > 30 and any(name.startswith("alpha:") for name in one)
  other = parameters_after_steps(tmp_path, num_processes, devices_each)
  assert other.keys() == one.keys()
  for name, values in one.items():
    # atol: float32 sums in another order, for numbers that are nearly nothing.
    np.testing.assert_allclose(other[name], values, rtol=1e-5, atol=1e-6, err_msg=name)


class HostRead(Exception):
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
  meta = meta.with_optimizer(work.optimizer(1e-3))
  saving = loop.Saving(tmp_path, interruption.StopRequest(), MetricsFile(tmp_path))
  steps = loop.Loop(work, "bit_selection", saving)
  state = steps.start({"meta": meta, "arch": phases.create_architectures(work)})
  guarded, results = 0, []
  for number, (_, batch) in enumerate(steps.batches()):
    if number >= work.steps_per_epoch - 1:
      break
    if number == 1:  # The first step compiles, and the progress line says so.
      early = results[:1]
      forbid_reading(monkeypatch, metrics["loss"], early)
    batch = work.programs.label_targets(work.num_classes, batch)
    meta, metrics = work.programs.bit_meta_step(state["meta"], batch)
    arch, _ = work.programs.bit_search_steps(state["arch"], meta, batch)
    state = {"meta": meta, "arch": arch}
    results.append(metrics)
    if number > 1:
      early.append(results[number - 2])
    steps.after_step(state, metrics)
    guarded += number > 0
  assert guarded == work.steps_per_epoch - 2


class Output:
  """An array that says when it is waited for or read."""

  def __init__(self, number, events):
    self.number, self.events = number, events

  def block_until_ready(self):
    self.events.append(f"wait {self.number}")
    return self

  def copy_to_host_async(self):
    pass

  def __array__(self, *unused_args, **unused_options):
    self.events.append(f"read {self.number}")
    return np.array(self.number)


def test_the_host_is_two_steps_ahead():
  events = []

  def step(number):
    events.append(f"step {number}")
    return {"loss": Output(number, events)}

  in_flight = parallel.StepsInFlight(ahead=2)
  for number in range(4):
    in_flight.add(step(number))
  assert events == ["step 0", "step 1", "step 2", "wait 0", "step 3", "wait 1"]
  in_flight.wait()
  assert events[6:] == ["wait 2", "wait 3"]
  events.clear()
  fetched = list(parallel.fetch((step(number) for number in range(4)), ahead=2))
  assert events == ["step 0", "step 1", "step 2", "read 0", "step 3", "read 1", "read 2", "read 3"]
  assert fetched == [{"loss": number} for number in range(4)]


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
  phases.evaluate(on_watched, meta, {})
  assert steps == {"evaluation_step": 15} and max(in_flight) == 3 and in_flight[-1] == 0
  phases.reestimate_batch_statistics(on_watched, meta, {})
  assert steps["batch_moments_step"] == 5 and max(in_flight) == 3 and in_flight[-1] == 0


@pytest.mark.parametrize("num_devices", [1, 2, 4])
def test_evaluation_is_the_same_on_any_number_of_devices(num_devices, data_dir):
  """450 images in batches of 128 over 1, 2 and 4 devices: 62 of the last batch are padding."""
  work = context.prepare(tiny_config(data_dir))
  on_few = dataclasses.replace(work, programs=parallel.make_programs(jax.devices()[:num_devices]))
  meta = phases.create_student(on_few)
  top1 = phases.evaluate(on_few, on_few.replicate(meta), {})
  expected = []
  for batch in work.evaluation_batches():
    logits = meta.network.module.apply(
        {"params": meta.weights, "batch_stats": meta.batch_stats}, meta.network.normalize(batch["image"]), train=False)
    expected.extend((np.argmax(logits, -1) == batch["label"])[batch["mask"] > 0])
  assert len(expected) == 450
  assert top1 == 100 * np.sum(expected) / 450


@pytest.mark.parametrize("flags, sentence", [
    (("host:1", 2, None), "--process_id is missing; --coordinator_address, --num_processes and --process_id come together"),
    (("host:1", 2, 2), "--process_id is 2; allowed are 0 to 1, below --num_processes."),
])
def test_wrong_flags_of_several_processes(flags, sentence):
  with pytest.raises(ValueError, match=f"^{sentence}"):
    multihost.connect(*flags)
