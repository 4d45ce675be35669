"""How often each phase of a run takes the steps of bench.py, and for how long."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from metamix_jax.errors import UserError
from metamix_jax.records.names import targets, trained_targets

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


def check_measured(config, facts: Mapping[str, Any]) -> None:
  """Raises UserError where a file was measured with another config: the first field that differs."""
  wanted = {
      "network": config.network.name, "image_size": config.data.image_size, "compute_dtype": config.compute_dtype,
      "matmul_precision": config.matmul_precision, "teacher": config.teacher.name, "targets": len(targets(config))}
  for name, value in wanted.items():
    if facts.get(name) != value:
      raise UserError(f"the file was measured with {name} {facts.get(name)!r} and the config has {value!r}; measure "
                      "the config's own steps.")


def seconds_of_an_image(benchmark: Mapping[str, Any]) -> dict[str, float]:
  """Returns {step: seconds}; without a teacher there is no time for it."""
  return {name: 1 / step["images_per_second"] for name, step in benchmark["steps"].items()}


def phases_of(config) -> list[Phase]:
  """Returns the phases of a run that have epochs, with the passes of each target that is trained."""
  selection, num_trained = config.bit_selection, len(trained_targets(config))
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
