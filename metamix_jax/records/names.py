"""Names of phases, and of what a target's phases, files and metrics are called."""

import ml_collections

# In this order; epochs are numbered through the run, so that every phase sees orders of its own.
TRAINING_PHASES = ("pretraining", "bit_selection", "stage_a", "stage_b")
# Of weight training, once for each trained target.
STAGES = TRAINING_PHASES[2:]


def targets(config: ml_collections.ConfigDict) -> tuple[float, ...]:
  """Every target of config.arch.target_gbops, in GBOPs, ascending; one for a number."""
  value = config.arch.target_gbops
  return value if isinstance(value, tuple) else (value,)


def trained_targets(config: ml_collections.ConfigDict) -> tuple[float, ...]:
  """The targets that go through weight training, in GBOPs, ascending: config.arch.train_targets, or all."""
  chosen = config.arch.train_targets
  return tuple(target for target in targets(config) if chosen is None or target in chosen)


def format_target(target: float) -> str:
  """A target in names of phases, files and metrics: its first six digits."""
  return format(target, "g")


def named(base: str, config: ml_collections.ConfigDict, target: float) -> str:
  """`base` where a config has one target, BASE_TARGET where it has several."""
  return base if len(targets(config)) == 1 else f"{base}_{format_target(target)}"
