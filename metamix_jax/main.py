"""python -m metamix_jax.main --config=configs/digits.py --workdir=DIR"""

import logging
import pathlib
import sys

from absl import app, flags
from absl import logging as absl_logging
import jax
from ml_collections import config_flags

from metamix_jax import experiment, report
from metamix_jax.command_line import flags_parser, stop
from metamix_jax.loop import Interrupted, Saving

# sysexits.h's EX_TEMPFAIL, "try again": what a cluster's launcher should do.
EXIT_INTERRUPTED = 75

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, selected bits, report.")
_CONFIG = config_flags.DEFINE_config_file("config", None, "The config, a Python file with get_config().")


def main(argv):
  """Runs all phases of the config and prints the summary; a bad input ends in one sentence and status 2."""
  if len(argv) > 1:
    sys.exit(f"unknown argument {argv[1]!r}; allowed are --config, --config.FIELD=VALUE and --workdir.")
  absl_logging.set_verbosity(absl_logging.WARNING)
  logger = logging.getLogger("metamix_jax")  # Its own, so that libraries' notes stay out of the progress lines.
  logger.setLevel(logging.INFO)
  logger.addHandler(logging.StreamHandler(sys.stdout))
  logger.propagate = False
  workdir = pathlib.Path(_WORKDIR.value)
  # A run that is continued, or a second run of the folder, then compiles nothing again.
  jax.config.update("jax_compilation_cache_dir", str((workdir / "compilation_cache").absolute()))
  saving = Saving((workdir / "checkpoints").absolute())
  saving.listen_for_sigterm()
  try:
    summary = experiment.run(_CONFIG.value, workdir, saving)
  except ValueError as error:
    stop("metamix_jax", error)
  except Interrupted as interruption:
    print(f"metamix_jax: {interruption}; the same command continues.", file=sys.stderr)
    sys.exit(EXIT_INTERRUPTED)
  print(report.format_table(summary))
  print(f"\nWritten: {workdir / 'report' / 'summary.json'}, {workdir / 'selected_bits.json'}")


def run():
  """Console entry point."""
  flags.mark_flags_as_required(["config", "workdir"])
  app.run(main, flags_parser=flags_parser("metamix_jax"))


if __name__ == "__main__":
  run()
