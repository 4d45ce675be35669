#!/usr/bin/env python
"""Estimates what a whole run takes, from the measured steps of bench.py: hours of each phase.

  python scripts/benchmarks/bench.py --config=configs/imagenet.py:mobilenet_v3_large --config.batch_size=16 \\
    --json=steps.json
  python scripts/benchmarks/whole_run.py --config=configs/imagenet.py:mobilenet_v3_large --images=1281167 steps.json

An epoch takes as long as its images at the measured images/s of its steps. "Without the teacher" is what remains where
all its targets are kept (docs/kept-targets.md). Compiling, evaluations, reading and decoding are not counted.
"""

import pathlib

from absl import app, flags
from benchmark_file import read_benchmark
from ml_collections import config_flags
from phase_times import check_measured, phases_of, seconds_of_an_image, time_of

from metamix_jax import config as config_rules
from metamix_jax.command_line import exit_on_user_error, flags_parser
from metamix_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "The config of the run, a Python file with get_config().")
_IMAGES = flags.DEFINE_integer("images", None, "Images of the training split.", lower_bound=1)


@exit_on_user_error("whole_run")
def main(argv):
  """Prints a table; a UserError becomes one sentence and status 2."""
  if len(argv) != 2:
    raise UserError("one file of bench.py --json is needed.")
  if _CONFIG.value.meta_state_from is not None:
    raise UserError("config.meta_state_from is another run, whose phases are not taken again; allowed here is None.")
  config_rules.validate(_CONFIG.value)
  benchmark = read_benchmark(pathlib.Path(argv[1]))
  check_measured(_CONFIG.value, benchmark["facts"])
  seconds = seconds_of_an_image(benchmark)
  print("| phase | passes | hours | without the teacher |\n|---|---|---|---|")
  total = without = 0.0
  for phase in phases_of(_CONFIG.value):
    hours, of_teacher = (value * _IMAGES.value / 3600 for value in time_of(phase, seconds))
    total, without = total + hours, without + hours - of_teacher
    passes = ", ".join(f"{epochs} {step}" for step, epochs in phase.epochs.items())
    print(f"| {phase.name} | {passes} | {hours:,.1f} | {hours - of_teacher:,.1f} |")
  print(f"| all | | {total:,.1f} | {without:,.1f} |")


if __name__ == "__main__":
  flags.mark_flags_as_required(["config", "images"])
  app.run(main, flags_parser=flags_parser("whole_run"))
