"""The rules of configs/search_quality.py: every field with its type and range."""

import ml_collections

from metamix_jax import config as config_rules
from metamix_jax.errors import UserError

RULES = {
    "seed": config_rules.RULES["seed"],
    "num_random": config_rules.POSITIVE_INT,
    "random_batches": config_rules.POSITIVE_INT,
    "judging_batches": config_rules.POSITIVE_INT,
    "num_local": config_rules.POSITIVE_INT,
    "num_resamples": config_rules.POSITIVE_INT,
}


def check_settings(settings: ml_collections.ConfigDict) -> None:
  """Raises UserError if a field of configs/search_quality.py is missing, unknown or wrong."""
  for name in settings:
    if name not in RULES:
      raise UserError(config_rules.unknown_field(name, RULES))
  for name, rule in RULES.items():
    if name not in settings or not rule.holds(settings[name]):
      raise UserError(f"config.{name} is {settings.get(name)!r}; it must be {rule.words}.")
