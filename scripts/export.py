#!/usr/bin/env python
"""Exports a finished run to files that run without this package, and proves that they compute the same.

  python scripts/export.py runs/digits
  python scripts/export.py runs/digits --format=program,stablehlo
  python scripts/export.py runs/targets --target=3.31

It writes DIR/export (DIR/export_3.31 with a target): the integer program (program.json, program.npz, evaluator.py,
golden.npz), stablehlo.bin, three ONNX files (`integer`, `qcdq`, `qonnx`; pip install 'metamix_jax[export]'), the table
of bits, and certificate.json. docs/export.md describes them. A network that cannot be exported ends with one sentence
and status 2, and files that do not keep what they promise with one sentence and status 1; neither leaves a folder.
"""

import sys

from absl import app, flags
from absl import logging as absl_logging

from metamix_jax.command_line import exit_on_user_error, flags_parser, folder_of_run
from metamix_jax.export import run
from metamix_jax.export.certificate import NotCertified

_TARGET = flags.DEFINE_float("target", None, "In the unit of the cost; which target of a run with several.")
_FORMATS = flags.DEFINE_list("format", list(run.FORMATS), f"Of {', '.join(run.FORMATS)}; program is always written.")
_NUM_EXACT = flags.DEFINE_integer(
    "exact_images", None, "Evaluation images on which the files are compared bit for bit; None: all.", lower_bound=1)


@exit_on_user_error("export")
def main(argv):
  """Exports one run; a UserError becomes one sentence and status 2."""
  absl_logging.set_verbosity(absl_logging.FATAL)
  try:
    folder = run.export_run(
        folder_of_run(argv), target=_TARGET.value, formats=_FORMATS.value, num_exact=_NUM_EXACT.value)
  except NotCertified as error:
    print(f"export: {error}", file=sys.stderr)
    sys.exit(1)
  print(run.describe(folder))


if __name__ == "__main__":
  app.run(main, flags_parser=flags_parser("export"))
