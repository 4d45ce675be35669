"""Names of the phases, and the rule for the names of a target's phases, files and metrics."""

from collections.abc import Sequence

import ml_collections

# In the order of the run, which numbers its epochs through, so that each phase sees other orders of the images.
TRAINING_PHASES = ("pretraining", "bit_selection", "stage_a", "stage_b")
# The stages of weight training, once for each trained target.
STAGES = TRAINING_PHASES[2:]


def targets(config: ml_collections.ConfigDict) -> tuple[float, ...]:
  """Returns every target of config.arch.target_gbops, in GBOPs, ascending; one for a number."""
  value = config.arch.target_gbops
  return value if isinstance(value, tuple) else (value,)


def trained_targets(config: ml_collections.ConfigDict) -> tuple[float, ...]:
  """Returns the targets that go through weight training, in GBOPs, ascending: config.arch.train_targets, or all."""
  chosen = config.arch.train_targets
  return tuple(target for target in targets(config) if chosen is None or target in chosen)


def format_target(target: float) -> str:
  """Writes a target for names of phases, files and metrics: its first six digits."""
  return format(target, "g")


def name_for_target(base: str, target: float, all_targets: Sequence[float]) -> str:
  """Returns the name of one target's phase, file or figure: BASE if it is the only target, else BASE_TARGET."""
  return base if len(all_targets) == 1 else f"{base}_{format_target(target)}"
