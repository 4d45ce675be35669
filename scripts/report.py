#!/usr/bin/env python
"""Makes a run's figures and its page again, from what the run has written: no training, no data, no accelerator.

  python scripts/report.py runs/digits

For a run that is still going, or was interrupted, the page says what is not there yet. Written: DIR/report/*.png and
DIR/report/report.html, which needs no other file.
"""

from absl import app

from metamix_jax.command_line import exit_on_user_error, flags_parser
from metamix_jax.errors import UserError
from metamix_jax.records.paths import local_folder
from metamix_jax.reporting import page


@exit_on_user_error("report")
def main(argv):
  """Writes the report; a bad folder ends in one sentence and status 2."""
  if len(argv) != 2:
    raise UserError(f"{len(argv) - 1} folders are given; it takes one, the --workdir of a run.")
  print(f"Written: {page.write(local_folder(argv[1]))}")


if __name__ == "__main__":
  app.run(main, flags_parser=flags_parser("report"))
