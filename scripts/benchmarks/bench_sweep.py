#!/usr/bin/env python
"""Times a whole sweep with its runs one after another, and with several at once, and compares the two.

  python scripts/benchmarks/bench_sweep.py
  python scripts/benchmarks/bench_sweep.py --sweep=configs/sweeps/digits_targets.py --parallel=4

Both are started as a user starts them (scripts/sweep.py), in new folders, without a compilation cache from before. The
data set is prepared first. On CPUs, run `source scripts/cpu_environment.sh` first.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

from absl import app, flags

from metamix_jax.command_line import define_path, exit_on_user_error, flags_parser
from metamix_jax.config_file import load_config
from metamix_jax.errors import UserError
from metamix_jax.reporting import sweep as sweeps

ROOT = pathlib.Path(__file__).parents[2]
_SWEEP = define_path("sweep", ROOT / "configs" / "sweeps" / "digit_pairs_short.py", "The sweep's config.")
_PARALLEL = flags.DEFINE_integer("parallel", 2, "Runs at once, of the second sweep.", lower_bound=2)


@exit_on_user_error("bench_sweep")
def main(argv):
  """Runs both sweeps and prints a table; a UserError becomes one sentence and status 2."""
  del argv
  path = _SWEEP.value.absolute()
  os.chdir(ROOT)  # The base of a sweep is a path from there.
  config = load_config(path)
  with tempfile.TemporaryDirectory() as folder:
    runs = sweeps.plan(config, pathlib.Path(folder))
    prepare_data(runs[0].config)
    seconds = {
        parallel: run_sweep(path, pathlib.Path(folder) / str(parallel), parallel) for parallel in (1, _PARALLEL.value)}
  print("\n| runs at once | runs | seconds | times as fast |\n|---|---|---|---|")
  for parallel, taken in seconds.items():
    print(f"| {parallel} | {len(runs)} | {taken:.0f} | {seconds[1] / taken:.2f} |")


def prepare_data(config) -> None:
  """Prepares the data set of a config."""
  from metamix_jax import data  # Loads TensorFlow: seconds.
  data.open_source(config, 0, 1)


def run_sweep(path: pathlib.Path, workdir: pathlib.Path, parallel: int) -> float:
  """Runs the sweep in a new folder, and returns the seconds that it took; raises UserError if it fails."""
  begun = time.perf_counter()
  environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
  finished = subprocess.run(
      [sys.executable, "scripts/sweep.py", f"--config={path}", f"--workdir={workdir}",
       f"--parallel={parallel}"],
      env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
  if finished.returncode:
    raise UserError(f"the sweep with {parallel} at once ended with status {finished.returncode}: "
                    f"{finished.stdout.strip().splitlines()[-1] if finished.stdout.strip() else 'no output'}")
  return time.perf_counter() - begun


if __name__ == "__main__":
  app.run(main, flags_parser=flags_parser("bench_sweep"))
