"""Runs all phases of a config: python -m metamix_jax.main --config=configs/digits.py --workdir=DIR"""

from collections.abc import Sequence
import importlib
import os
import pathlib
import sys
from typing import Any

from absl import app, flags
from absl import logging as absl_logging
import jax
from ml_collections import config_flags

from metamix_jax import experiment
from metamix_jax.command_line import exit_on_user_error, flags_parser, stop
from metamix_jax.errors import UserError
from metamix_jax.records import multihost
from metamix_jax.records.files import check_writable
from metamix_jax.records.interruption import EXIT_INTERRUPTED, Interrupted, StopRequest, turn_into_sigterm
from metamix_jax.records.names import name_for_target, targets
from metamix_jax.records.paths import local_folder
from metamix_jax.records.progress import log_to_terminal
from metamix_jax.records.workdir import hold_workdir
from metamix_jax.training.context import prepare

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, selected bits, report.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "This is one of several processes, and the cluster's environment says which.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "HOST:PORT of the first of several processes, where no cluster's environment says it.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes in all.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process, from 0.")
_CONFIG = config_flags.DEFINE_config_file("config", None, "The config, a Python file with get_config().")


@exit_on_user_error("metamix_jax")
def main(argv):
  """Runs all phases of the config and prints the results; a UserError becomes one sentence and status 2."""
  if len(argv) > 1:
    stop("metamix_jax", f"unknown argument {argv[1]!r}; allowed are --config, --config.FIELD=VALUE and --workdir.")
  # Orbax logs an error with its traceback before it raises it; our sentence about the error is enough.
  absl_logging.set_verbosity(absl_logging.FATAL)
  addresses = (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
  if _DISTRIBUTED.value or any(value is not None for value in addresses):  # Before anything asks for a device.
    multihost.connect(*addresses)
  log_to_terminal()
  workdir = local_folder(str(_WORKDIR.value))
  programs_folder = _set_compilation_cache(workdir)
  stop_request = StopRequest()
  if jax.distributed.is_initialized():  # There JAX listens, and tells all processes of the first SIGTERM.
    turn_into_sigterm()
  else:
    stop_request.listen_for_signals()
    stop_request.listen_to_parent()
  importlib.import_module("metamix_jax.reporting.page")  # Seconds, for matplotlib; at the end it may be missing.
  # The folder is held before the data are looked at, until the report is written.
  with multihost.ending_together(), hold_workdir(workdir):
    try:
      experiment.run(prepare(_CONFIG.value, programs_folder=programs_folder), workdir, stop_request)
    except Interrupted as interruption:
      print(f"metamix_jax: {interruption}; the same command continues.", file=sys.stderr)
      sys.exit(EXIT_INTERRUPTED)
    if multihost.is_lead_process():
      _report(workdir, targets(_CONFIG.value))


def _set_compilation_cache(workdir: pathlib.Path) -> pathlib.Path | None:
  """Keeps compiled programs in DIR/compilation_cache, or where JAX_COMPILATION_CACHE_DIR says.

  A run that is continued, or a second run of the folder, then compiles nothing again.

  Returns:
    The folder for the steps of a run (saved_programs.py); None where the cache is at a URL or switched off.
  """
  jax_config: Any = jax.config  # Its fields are made at run time.
  users = jax_config.jax_compilation_cache_dir
  folder = pathlib.Path(users or workdir / "compilation_cache").absolute()
  if not users:
    jax.config.update("jax_compilation_cache_dir", str(folder))
  elif "://" in users:
    return None
  else:
    try:
      check_writable(folder / f"process_{os.getpid()}")
    except UserError as error:
      raise UserError(f"JAX_COMPILATION_CACHE_DIR={users}: {error}") from error
  return folder / "programs" if jax_config.jax_enable_compilation_cache else None


def _report(workdir: pathlib.Path, all_targets: Sequence[float]):
  """Writes the page of a finished run, and prints its table and the paths of its files."""
  from metamix_jax.reporting import page, saved_run, tables
  names = [name_for_target("selected_bits", target, all_targets) for target in all_targets]
  paths = [page.write(workdir), workdir / "report" / "summary.json", *(workdir / f"{name}.json" for name in names)]
  print(tables.format_table(saved_run.read(workdir)))
  print(f"\nWritten: {', '.join(map(str, paths))}")


def run():
  """Starts the command line; the console script calls it."""
  flags.mark_flags_as_required(["config", "workdir"])
  app.run(main, flags_parser=flags_parser("metamix_jax"))


if __name__ == "__main__":
  run()
