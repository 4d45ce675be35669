#!/usr/bin/env python
"""Times how long the programs of a config's steps take to be ready: cold, and where an earlier process left them.

  python scripts/benchmarks/bench_start.py --config=configs/imagenet.py:mobilenet_v3_large --config.batch_size=16

Each column is a process of its own: the first begins with an empty folder; the second has JAX's compilation cache of
the first and traces every step; the third has saved programs (training/saved_programs.py) and traces none. The seconds
are those of one step after the other, without Python's start. On CPUs, run `source scripts/cpu_environment.sh` first.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags
import synthetic

from metamix_jax.command_line import define_path, exit_on_user_error, flags_parser
from metamix_jax.errors import UserError
from metamix_jax.training import context, parallel
from metamix_jax.training.saved_programs import with_saved_programs

CONFIG = config_flags.DEFINE_config_file("config", None, "The config, a Python file with get_config().")
_CHILD = define_path("child", None, "For the processes that it starts: where programs are kept, or are to be.")
# The folder for programs that each process gets.
COLUMNS = {"cold": "programs", "JAX's cache": "empty", "saved programs": "programs"}


@exit_on_user_error("bench_start")
def main(argv):
  """Times the processes and prints a table; a UserError becomes one sentence and status 2."""
  del argv
  absl_logging.set_verbosity(absl_logging.FATAL)
  if _CHILD.value is not None:
    print(json.dumps(seconds_of_programs(CONFIG.value, _CHILD.value)))
    return
  context.networks_without_data(CONFIG.value)  # A mistake in the config is found here.
  with tempfile.TemporaryDirectory() as folder:
    times = {column: run(pathlib.Path(folder), programs) for column, programs in COLUMNS.items()}
  print("\n| step | " + " | ".join(f"{name} [s]" for name in times) + " |")
  print("|---" * (len(times) + 1) + "|")
  for step in times["cold"]:
    print(f"| {step} | " + " | ".join(f"{column[step]:.1f}" for column in times.values()) + " |")
  print("| all | " + " | ".join(f"{sum(column.values()):.1f}" for column in times.values()) + " |")


def run(folder: pathlib.Path, programs: str) -> dict[str, float]:
  """Runs a process that makes all programs, and returns the seconds of each; raises UserError if it fails."""
  finished = subprocess.run(
      [sys.executable, *sys.argv, f"--child={folder / programs}"], stdout=subprocess.PIPE, text=True, check=False,
      env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache")})
  if finished.returncode:
    raise UserError(f"the process that makes the programs ended with status {finished.returncode}.")
  return json.loads(finished.stdout.strip().splitlines()[-1])


def seconds_of_programs(config, folder: pathlib.Path) -> dict[str, float]:
  """Makes the programs of all steps, and returns the seconds of each."""
  networks = context.networks_without_data(config)
  plain = parallel.make_programs(matmul_precision=config.matmul_precision)
  programs, seconds = with_saved_programs(plain, folder), {}
  for name, (field, arguments) in synthetic.step_arguments(config, *networks, plain).items():
    begun = time.perf_counter()
    getattr(programs, field).find(*arguments)
    seconds[name] = time.perf_counter() - begun
  return seconds


if __name__ == "__main__":
  flags.mark_flag_as_required("config")
  app.run(main, flags_parser=flags_parser("bench_start"))
