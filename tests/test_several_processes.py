"""The same global batch gives the same parameters on any number of devices and processes."""

import functools
import os
import re
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers.files import ROOT
from tests.helpers.interrupted_runs import start


def parameters_after_steps(folder, num_processes, devices_each, data_seed):
  """Runs tests/helpers/several_processes.py; returns its parameters."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  output = folder / f"{num_processes}x{devices_each}.npz"
  environment = os.environ | {
      "JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices_each}"}
  processes = [subprocess.Popen(
      [sys.executable, "-m", "tests.helpers.several_processes", str(process), str(num_processes), str(port),
       str(data_seed), str(output)],
      cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
      for process in range(num_processes)]
  for process in processes:
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
  return dict(np.load(output))


@functools.cache
def on_one_device(folder, data_seed):
  return parameters_after_steps(folder, 1, 1, data_seed)


# One data seed with every number of devices; the others show that it is not a lucky one.
@pytest.mark.parametrize("num_processes, devices_each, data_seed", [
    (2, 2, 0), (1, 2, 0), (1, 8, 0), *((1, 2, seed) for seed in range(1, 5))])
@pytest.mark.slow
def test_devices_and_processes_do_not_matter(num_processes, devices_each, data_seed, tmp_path_factory):
  """Three bit-meta, bit-search and weight steps on one device, and on several of one or two processes."""
  folder = tmp_path_factory.getbasetemp()
  one = on_one_device(folder, data_seed)
  assert len(one) > 20 and any(name.startswith("alpha:") for name in one)
  other = parameters_after_steps(folder, num_processes, devices_each, data_seed)
  assert other.keys() == one.keys()
  for name, values in one.items():
    # atol: float32 sums in another order, for numbers that are nearly nothing.
    np.testing.assert_allclose(other[name], values, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_all_processes(tmp_path, data_dir):
  """Both look at the same steps, whatever their clocks say: status 2 and one sentence, not an all-reduce for ever."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  processes = [
      start(tmp_path / "run", data_dir, 1, "--config.pretraining.learning_rate=1e30",
            f"--config.log_every_seconds={0.01 + 1000 * process}", f"--coordinator_address=127.0.0.1:{port}",
            "--num_processes=2", f"--process_id={process}") for process in range(2)]
  for process in processes:
    text, _ = process.communicate(timeout=400)
    assert process.returncode == 2, text
    assert re.search(r"^metamix_jax: pretraining, step \d+: the training loss or its gradient is not finite, first in "
                     r"the [^\n]*; lower config.pretraining.learning_rate or look at the data.$", text, re.M), text
