#!/usr/bin/env python
"""Runs every combination of a grid of config values, and writes their results side by side.

  python scripts/sweep.py --config=configs/sweeps/digits_targets.py --workdir=runs/digits_targets
  python scripts/sweep.py --config=configs/sweeps/digits_targets.py --workdir=runs/digits_targets --print_commands

The second command prints the commands of the unfinished runs, for a cluster, and runs nothing; the first command then
collects the results. Each run has its folder. Finished runs are skipped, and interrupted ones continue. After each run
the sweep writes DIR/results.csv and DIR/accuracy_against_cost.png. SIGTERM, SIGINT or SIGHUP stops the run and the
sweep with status 75.
"""

import shlex
import sys

from absl import app, flags
from ml_collections import config_flags

from metamix_jax.command_line import exit_on_user_error, flags_parser
from metamix_jax.records import folder_lock
from metamix_jax.records.interruption import EXIT_INTERRUPTED, Interrupted, StopRequest
from metamix_jax.records.paths import local_folder
from metamix_jax.reporting import sweep

_CONFIG = config_flags.DEFINE_config_file("config", None, "The sweep, a Python file with get_config().")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the sweep.")
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
      sweep.execute(runs, workdir, lambda run: sweep.run_in_process(run, stop_request), stop_request,
                    lambda line: print(line, flush=True))
  except Interrupted as interruption:
    print(f"sweep: {interruption}; the same command continues.", file=sys.stderr)
    sys.exit(EXIT_INTERRUPTED)
  print(f"Written: {workdir / 'results.csv'}, {workdir / 'accuracy_against_cost.png'}")


if __name__ == "__main__":
  flags.mark_flags_as_required(["config", "workdir"])
  app.run(main, flags_parser=flags_parser("sweep"))
