#!/usr/bin/env python
"""Makes the figures and the page of a run again, from its files: no training, no data, no accelerator.

  python scripts/report.py runs/digits

It writes DIR/report/*.png and DIR/report/report.html, which needs no other file. If the run is still going or was
interrupted, the page says what is missing.
"""

from absl import app

from metamix_jax.command_line import exit_on_user_error, flags_parser
from metamix_jax.errors import UserError
from metamix_jax.records.paths import local_folder
from metamix_jax.reporting import page


@exit_on_user_error("report")
def main(argv):
  """Writes the report; a UserError becomes one sentence and status 2."""
  if len(argv) != 2:
    raise UserError(f"{len(argv) - 1} folders are given; it takes one, the --workdir of a run.")
  print(f"Written: {page.write(local_folder(argv[1]))}")


if __name__ == "__main__":
  app.run(main, flags_parser=flags_parser("report"))
