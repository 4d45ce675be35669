"""The same global batch gives the same parameters on any number of devices and processes."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers.files import ROOT

DATA_SEED = 0


def parameters_after_steps(folder, num_processes, devices_each):
  """Runs tests/helpers/several_processes.py; returns its parameters."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  output = folder / f"{num_processes}x{devices_each}.npz"
  environment = os.environ | {
      "JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices_each}"}
  processes = [subprocess.Popen(
      [sys.executable, "-m", "tests.helpers.several_processes", str(process), str(num_processes), str(port),
       str(DATA_SEED), str(output)],
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
  assert len(one) > 20 and any(name.startswith("alpha:") for name in one)
  other = parameters_after_steps(tmp_path, num_processes, devices_each)
  assert other.keys() == one.keys()
  for name, values in one.items():
    # atol: float32 sums in another order, for numbers that are nearly nothing.
    np.testing.assert_allclose(other[name], values, rtol=1e-5, atol=1e-6, err_msg=name)
