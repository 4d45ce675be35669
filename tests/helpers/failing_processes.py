"""One of several processes of which one sees a fault alone; tests/records/test_multihost.py starts them.

  python -m tests.helpers.failing_processes CASE PROCESS NUM_PROCESSES PORT FOLDER
"""

import json
import pathlib
import sys
import time

import jax
from jax.experimental import multihost_utils
import numpy as np

from metamix_jax.command_line import exit_on_user_error
from metamix_jax.errors import UserError
from metamix_jax.records import checkpoints, multihost
from metamix_jax.records.clock import Clock

TREE = {"weights": np.arange(6, dtype=np.float32)}


def full_disk(process, folder):
  """The first process finds no room; the others do not look."""
  phases = checkpoints.PhaseCheckpoints(folder)
  phases.save("pretraining", TREE, {"best": None, "seconds": 1.0})
  if process == 0:
    checkpoints.shutil.disk_usage = lambda path: type("Usage", (), {"free": 0})
  phases.save("bit_selection", TREE, {"best": None, "seconds": 1.0})


def unreadable(process, folder):
  """The second process cannot read what the first one can: both go back to the step before."""
  steps = checkpoints.StepCheckpoints(folder / "steps", "stage_a", Clock(), max_to_keep=2)
  for step in (2, 4):
    steps.save(step, {"weights": TREE["weights"] * step})
  steps.close()
  multihost_utils.sync_global_devices("saved")
  if process == 1:
    read = checkpoints.read_json

    def read_json(path, *keys):
      if path.parent.name == "4":
        raise OSError(5, "Input/output error")
      return read(path, *keys)

    checkpoints.read_json = read_json
  state, step = checkpoints.StepCheckpoints(folder / "steps", "stage_a", Clock(), max_to_keep=2).restore(TREE)
  print(json.dumps([step, state["weights"].tolist(), sorted(path.name for path in folder.iterdir())]))


def own_data(process, folder):
  """The second process cannot decode an image of its part; the first one waits for it in an all-reduce."""
  del folder
  multihost_utils.sync_global_devices("begun")
  if process == 1:
    raise UserError("record b.jpg cannot be decoded")
  multihost_utils.sync_global_devices("never")


def defect(process, folder):
  """The first process ends with a traceback."""
  del folder
  if process == 0:
    time.sleep(1)
    raise KeyError("defect")
  multihost_utils.sync_global_devices("never")


def questions(process, folder):
  """Two phases of three steps: every process is told of the same steps."""
  del process, folder
  print(json.dumps([multihost.asked_to_stop() for _ in range(6)]))


@exit_on_user_error("failing_processes")
def main(case, process, num_processes, port, folder):
  """Runs a case."""
  multihost.connect(f"127.0.0.1:{port}", num_processes, process)
  jax.devices()
  with multihost.ending_together():
    globals()[case](process, pathlib.Path(folder))


if __name__ == "__main__":
  main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5])
