#!/usr/bin/env python
"""Estimates what a whole run takes, from the measured steps of bench.py: hours of each phase.

  python scripts/benchmarks/bench.py --config=configs/imagenet.py:mobilenet_v3_large --config.batch_size=16 \\
    --json=steps.json
  python scripts/benchmarks/whole_run.py --config=configs/imagenet.py:mobilenet_v3_large --images=1281167 steps.json

An epoch takes as long as its images at the measured images/s of its steps. "Without the teacher" is what remains where
all its targets are kept (docs/kept-targets.md). Compiling, evaluations, reading and decoding are not counted.
"""

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any

from absl import app, flags
from compare_benchmarks import read_benchmark
from ml_collections import config_flags

from metamix_jax.command_line import exit_on_user_error, flags_parser
from metamix_jax.errors import UserError
from metamix_jax.records.names import targets

_CONFIG = config_flags.DEFINE_config_file("config", None, "The config of the run, a Python file with get_config().")
_IMAGES = flags.DEFINE_integer("images", None, "Images of the training split.", lower_bound=1)

TEACHER = "T: teacher"


@dataclasses.dataclass(frozen=True)
class Phase:
  """Holds how often a phase takes each step.

  Attributes:
    name: of the phase.
    epochs: {step of bench.py: passes over the training split in which it is taken}.
  """

  name: str
  epochs: Mapping[str, int]


@exit_on_user_error("whole_run")
def main(argv):
  """Prints a table; a UserError becomes one sentence and status 2."""
  if len(argv) != 2:
    raise UserError("one file of bench.py --json is needed.")
  if _CONFIG.value.meta_state_from is not None:
    raise UserError("config.meta_state_from is another run, whose phases are not taken again; allowed here is None.")
  benchmark = read_benchmark(pathlib.Path(argv[1]))
  seconds = seconds_of_an_image(benchmark)
  print("| phase | passes | hours | without the teacher |\n|---|---|---|---|")
  total = without = 0.0
  for phase in phases_of(_CONFIG.value):
    hours, of_teacher = (value * _IMAGES.value / 3600 for value in time_of(phase, seconds))
    total, without = total + hours, without + hours - of_teacher
    passes = ", ".join(f"{epochs} {step}" for step, epochs in phase.epochs.items())
    print(f"| {phase.name} | {passes} | {hours:,.1f} | {hours - of_teacher:,.1f} |")
  print(f"| all | | {total:,.1f} | {without:,.1f} |")


def seconds_of_an_image(benchmark: Mapping[str, Any]) -> dict[str, float]:
  """Returns {step: seconds}; a run without a teacher has no time for it."""
  return {name: 1 / step["images_per_second"] for name, step in benchmark["steps"].items()}


def phases_of(config) -> list[Phase]:
  """Returns the phases of a run that have epochs, with the passes of each target that is trained."""
  selection, trained = config.bit_selection, config.arch.train_targets
  num_trained = len(targets(config)) if trained is None else len(trained)
  teacher = lambda epochs: {} if config.teacher.name == "labels" else {TEACHER: epochs}
  phases = [Phase("pretraining", {"F: full precision": config.pretraining.epochs})]
  if config.bits_from is None:
    phases.append(Phase("bit selection", {
        "bit-meta": selection.epochs, "bit-search": selection.epochs - selection.meta_only_epochs,
        **teacher(selection.epochs)}))
  for name, epochs in (("stage A", config.stage_a.epochs), ("stage B", config.stage_b.epochs)):
    phases.append(Phase(name, {name: epochs * num_trained, **teacher(epochs * num_trained)}))
  return [phase for phase in phases if any(phase.epochs.values())]


def time_of(phase: Phase, seconds: Mapping[str, float]) -> tuple[float, float]:
  """Returns the seconds of a phase for each image of the training split: of all its steps, and of the teacher alone.

  Args:
    phase: the phase.
    seconds: {step: seconds of one image}.

  Raises:
    UserError: a step was not measured.
  """
  for step, epochs in phase.epochs.items():
    if epochs and step not in seconds:
      raise UserError(f"the file has no {step!r}, which the {phase.name} takes; measure it with the same config.")
  times = {step: epochs * seconds[step] for step, epochs in phase.epochs.items() if epochs}
  return sum(times.values()), times.get(TEACHER, 0.0)


if __name__ == "__main__":
  flags.mark_flags_as_required(["config", "images"])
  app.run(main, flags_parser=flags_parser("whole_run"))
