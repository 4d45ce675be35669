#!/usr/bin/env python
"""Makes the figures and the page of a run again, from its files: no training, no data, no accelerator.

  python scripts/report.py runs/digits

It writes DIR/report/*.png and DIR/report/report.html, which needs no other file. If the run is still going or was
interrupted, the page says what is missing.
"""

from absl import app

from metamix_jax.command_line import exit_on_user_error, flags_parser, folder_of_run
from metamix_jax.reporting import page


@exit_on_user_error("report")
def main(argv):
  """Writes the report; a UserError becomes one sentence and status 2."""
  print(f"Written: {page.write(folder_of_run(argv))}")


if __name__ == "__main__":
  app.run(main, flags_parser=flags_parser("report"))
