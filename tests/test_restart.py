"""A run that goes on with other devices or processes than it began with ends in the same parameters."""

import dataclasses
import re
import signal
import socket

import jax
import numpy as np
import optax
import pytest

from metamix_jax.records import interruption
from metamix_jax.records.interruption import EXIT_INTERRUPTED
from metamix_jax.training import context, loop, parallel, phases
from tests.helpers.configs import middle_target, tiny_config
from tests.helpers.continuous_quantizer import CONTINUOUS
from tests.helpers.interrupted_runs import StopAfter, start


def on_devices(work, count):
  """The context on some of the devices, with SGD: Adam divides a gradient by its own size, and of a gradient that is
  nearly zero it would compare the last bits only."""
  programs = parallel.make_programs(jax.devices()[:count])
  return dataclasses.replace(work, programs=programs, weight_optimizer=optax.sgd, arch_optimizer=optax.sgd)


def assert_close(actual, expected):
  # atol: float32 sums in another order, for numbers that are nearly nothing.
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), actual, expected)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("before, after", [(4, 1), (1, 2)])
def test_on_another_number_of_devices(before, after, seed, data_dir, tmp_path):
  """Each training phase: three of its five steps on some devices, the rest on others, against all on the first ones."""
  config = tiny_config(data_dir)
  config.seed, config.checkpoints.every_steps = seed, 2
  config.bit_selection.epochs, config.bit_selection.meta_only_epochs = 1, 0
  config.network.name = "tests.helpers.own_network:PlainNetwork"
  with config.network.unlocked():
    config.network.options = {"features": (4, 8)}
  # No assignment costs the target, and no two alphas of a layer are nearly equal: the penalty's sign is certain.
  config.arch.target_gbops, config.arch.initial_std = middle_target(config), 0.5
  work = context.prepare(config, CONTINUOUS)
  first, second = on_devices(work, before), on_devices(work, after)
  started = phases.create_student(first)
  started = first.replicate(jax.device_get(phases.start_step_sizes(first, started)))
  bits = {layer.name: layer.candidate_bits[1] for layer in first.network.searched_layers}

  def pretraining(work, saving):
    return {"meta": phases.pretrain(work, phases.create_student(work), saving)[0]}

  def bit_selection(work, saving):
    start = work.replicate(jax.device_get(started))
    meta, arch = phases.select_bits(work, start, phases.create_architectures(work), None, saving)
    return {"meta": meta, "arch": arch}

  def stage_b(work, saving):
    meta = work.replicate(jax.device_get(started).with_weight_step_sizes())
    return {"meta": phases.train_weights(work, "stage_b", meta, bits, None, saving)[0]}

  for phase in (pretraining, bit_selection, stage_b):
    whole = phase(first, None)
    with pytest.raises(interruption.Interrupted, match="stopped after step 3/5"):
      phase(first, loop.Saving(tmp_path, StopAfter(2)))
    continued = phase(second, loop.Saving(tmp_path, interruption.StopRequest()))
    assert int(continued["meta"].step) == 5
    for name, state in whole.items():
      if name == "meta":
        state, other = ({"w": s.weights, "s": s.step_sizes, "b": s.batch_stats} for s in (state, continued[name]))
      else:
        state, other = state.alpha, continued[name].alpha
      assert_close(jax.device_get(other), jax.device_get(state))


@pytest.mark.slow
def test_a_stopped_run_of_two_processes_goes_on_in_one(data_dir, tmp_path):
  """SIGTERM to the second process stops both after the same step; one process with four devices ends the run."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
  together = [
      start(tmp_path / "run", data_dir, 1, f"--coordinator_address={address}", "--num_processes=2",
            f"--process_id={number}", num_devices=2) for number in range(2)]
  for line in together[0].stdout:
    if line.startswith("pretraining: step"):
      together[1].send_signal(signal.SIGTERM)
      break
  outputs = [process.communicate()[0] for process in together]
  assert [process.returncode for process in together] == [EXIT_INTERRUPTED] * 2, outputs
  stopped = [re.search(r"stopped after step \d+/30 of pretraining", output)[0] for output in outputs]
  assert stopped[0] == stopped[1]

  alone = start(tmp_path / "run", data_dir, 1, num_devices=4)
  output, _ = alone.communicate()
  assert alone.returncode == 0, output
  step = re.search(r"step (\d+)/30", stopped[0])[1]
  assert f"pretraining: continued after step {step}, from" in output
  assert (tmp_path / "run" / "report" / "summary.json").exists()
