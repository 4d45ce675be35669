#!/usr/bin/env python
"""Runs every combination of a grid of config values, and writes their results side by side.

  python scripts/sweep.py --config=configs/sweeps/digits_targets.py --workdir=runs/digits_targets
  python scripts/sweep.py --config=configs/sweeps/digits_targets.py --workdir=runs/digits_targets --parallel=2
  python scripts/sweep.py --config=configs/sweeps/digits_targets.py --workdir=runs/digits_targets --print_commands

The second command has two runs at once, with half of the processor cores each; what they print goes to output.log in
their folders. The third one prints the commands of the unfinished runs, for a cluster, and runs nothing, whatever
--parallel is; the first command then collects the results. Each run has its folder. Finished runs are skipped, and
interrupted ones continue. After each run the sweep writes DIR/results.csv and DIR/accuracy_against_cost.png. SIGTERM,
SIGINT or SIGHUP stops the runs and the sweep with status 75.
"""

import shlex
import sys

from absl import app, flags
from ml_collections import config_flags

from metamix_jax.command_line import exit_on_user_error, flags_parser
from metamix_jax.records import folder_lock
from metamix_jax.records.interruption import EXIT_INTERRUPTED, Interrupted, StopRequest
from metamix_jax.records.paths import local_folder
from metamix_jax.reporting import sweep, sweep_execution

_CONFIG = config_flags.DEFINE_config_file("config", None, "The sweep, a Python file with get_config().")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the sweep.")
_PARALLEL = flags.DEFINE_integer(
    "parallel", 1, "Runs at once, each with its share of the cores; for runs on CPUs.", lower_bound=1)
_PRINT_COMMANDS = flags.DEFINE_bool("print_commands", False, "Print the commands of the runs, and run nothing.")


@exit_on_user_error("sweep")
def main(argv):
  """Runs the sweep; a UserError becomes one sentence and status 2."""
  del argv
  workdir = local_folder(_WORKDIR.value)
  stop_request = StopRequest()
  stop_request.listen_for_signals()
  try:
    runs = sweep.plan(_CONFIG.value, workdir)
    if _PRINT_COMMANDS.value:
      for run in runs:
        if run.summary() is None:
          print(shlex.join(["python", *run.arguments]))
      return
    with folder_lock.hold(workdir):
      sweep_execution.execute(
          runs, workdir, _launch, stop_request, lambda line: print(line, flush=True), _PARALLEL.value)
  except Interrupted as interruption:
    print(f"sweep: {interruption}; the same command continues.", file=sys.stderr)
    sys.exit(EXIT_INTERRUPTED)
  print(f"Written: {workdir / 'results.csv'}, {workdir / 'accuracy_against_cost.png'}")


def _launch(run, stop_request):
  output = None if _PARALLEL.value == 1 else run.folder / sweep_execution.OUTPUT
  return sweep_execution.run_in_process(run, stop_request, output)


if __name__ == "__main__":
  flags.mark_flags_as_required(["config", "workdir"])
  app.run(main, flags_parser=flags_parser("sweep"))
