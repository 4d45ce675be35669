"""Runs in processes of their own, runs that stop after so many steps, and the parameters that runs leave."""

import os
import subprocess
import sys

import orbax.checkpoint as ocp

from tests.helpers.files import ROOT

OVERRIDES = {
    "batch_size": 256, "evaluation_batch_size": 128, "reestimation_batches": 2, "log_every_seconds": 0.01,
    "checkpoints.every_steps": 2, "data.image_size": 8, "network.options.stem_channels": 8,
    "network.options.blocks": "((1, 8, 1, 1), (2, 8, 1, 2))", "network.options.last_channels": 16,
    "arch.target_gbops": 0.0008, "bit_selection.meta_only_epochs": 2}
EPOCHS = {"pretraining": 6, "bit_selection": 6, "stage_a": 4, "stage_b": 5}
STEPS_PER_EPOCH = 5  # 1347 // 256.


def start(workdir, data_dir, scale, *flags, num_devices=1):
  """A process that trains; its output is in .stdout."""
  epochs = {f"{phase}.epochs": scale * count for phase, count in EPOCHS.items()}
  values = OVERRIDES | epochs | {"data.data_dir": data_dir}
  overrides = [f"--config.{name}={value}" for name, value in values.items()]
  environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1",
                              "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}"}
  return subprocess.Popen(
      [sys.executable, "-m", "metamix_jax.main", f"--config={ROOT}/configs/digits.py", f"--workdir={workdir}",
       *overrides, *flags],
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=environment)


class StopAfter:
  """A StopRequest that is true from the question after this many on; one is asked after each step and phase."""

  def __init__(self, questions):
    self.left = questions

  @property
  def requested(self):
    self.left -= 1
    return self.left < 0


def parameters(workdir, phase="stage_b"):
  """The arrays of a finished phase's checkpoint."""
  with ocp.StandardCheckpointer() as checkpointer:
    return checkpointer.restore(workdir / "checkpoints" / phase)
