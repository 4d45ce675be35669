#!/usr/bin/env python
"""Measures how good the search of a finished run is: its selection beside random, uniform and other assignments.

  python scripts/search_quality.py runs/digit_pairs
  python scripts/search_quality.py runs/digit_pairs --config.num_random=1000

Everything is evaluated straight from the meta-state of the run. The results go to DIR/report/search_quality.json and to
the page of the run. Scores are kept in DIR/search_quality.jsonl, so an interrupted measurement continues.
configs/search_quality.py has the settings.
"""

import pathlib

from absl import app
from absl import logging as absl_logging
import ml_collections
from ml_collections import config_flags

from metamix_jax.command_line import exit_on_user_error, flags_parser, folder_of_run
from metamix_jax.errors import UserError
from metamix_jax.records import folder_lock, search_quality
from metamix_jax.records.files import write_json
from metamix_jax.records.progress import log_to_terminal
from metamix_jax.records.results import BitSelection
from metamix_jax.reporting import page, saved_run, tables
from metamix_jax.training.search_settings import check_settings

SETTINGS = pathlib.Path(__file__).parents[1] / "configs" / "search_quality.py"
_CONFIG = config_flags.DEFINE_config_file("config", None, "The settings, a Python file with get_config().")


@exit_on_user_error("search_quality")
def main(argv):
  """Measures and reports; a UserError becomes one sentence and status 2."""
  workdir, settings = folder_of_run(argv), _CONFIG.value
  check_settings(settings)
  run = saved_run.read(workdir)
  if not run.target_results:
    raise UserError(f"{workdir} holds a run whose bit selection is not finished; there is no search to measure.")
  absl_logging.set_verbosity(absl_logging.FATAL)
  log_to_terminal()
  with folder_lock.hold(workdir):
    write_json(workdir / search_quality.FILE, _measure(workdir, run, settings).to_json())
    print(tables.format_search_quality(saved_run.read(workdir)))
    print(f"\nWritten: {page.write(workdir)}, {workdir / search_quality.FILE}")


def _measure(workdir: pathlib.Path, run: saved_run.SavedRun, settings: ml_collections.ConfigDict):
  # Here, because JAX and TensorFlow take seconds to load.
  from metamix_jax.training.saved_search import load_meta_state, open_run
  from metamix_jax.training.search_quality import measure_search_quality

  context = open_run(workdir)
  return measure_search_quality(
      context, load_meta_state(context, workdir), BitSelection(run.target_results), settings,
      workdir / "search_quality.jsonl")


if __name__ == "__main__":
  app.run(main, flags_parser=flags_parser("search_quality", SETTINGS))
