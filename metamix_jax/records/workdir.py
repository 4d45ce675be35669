"""The folder of a run, and the config that it belongs to."""

import json
import pathlib
from typing import Any

import ml_collections

from metamix_jax import config as config_rules
from metamix_jax.errors import UserError
from metamix_jax.records import multihost
from metamix_jax.records.files import write_json

# Fields that may change from start to start: they choose which phases are run, not what a phase does.
CHANGEABLE = ("arch.train_targets",)


def check_workdir(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Writes DIR/config.json, every field but the changeable ones, or checks that the one there is of this config.

  Raises:
    UserError: the folder holds a run of another config; the sentence names the first field that differs.
  """
  path = workdir / "config.json"
  fields = {name: value for name, value in config_rules.flatten(config).items() if name not in CHANGEABLE}
  fields = json.loads(json.dumps(fields))
  if multihost.is_lead_process() and not path.exists():
    write_json(path, fields)
  multihost.wait_for_all("config.json")
  earlier = read_saved_config(path)
  for name in sorted(set(earlier) | set(fields)):
    if earlier.get(name) != fields.get(name):
      raise UserError(
          f"workdir {workdir} holds a run of another config: {name} is {earlier.get(name)!r} there and "
          f"{fields.get(name)!r} here; choose another workdir.")


def read_saved_config(path: pathlib.Path) -> dict[str, Any]:
  """Returns the fields of a run's config.json, {"section.field": value}.

  Raises:
    UserError: the file is damaged or empty; the sentence names it and the remedy.
  """
  try:
    fields = json.loads(path.read_text())
    if not isinstance(fields, dict):
      raise ValueError("it holds no JSON object")
  except (OSError, ValueError) as error:
    raise UserError(
        f"{path} cannot be read ({error}); it is damaged. Delete it to continue the run in its folder with the config"
        " that you pass, which must be the one that the run started with, or choose another workdir.") from error
  return fields
