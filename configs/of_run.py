"""The config of a run, from its folder: --config=configs/of_run.py:DIR, whatever file and flags the run started with.

A run that continues another one takes all fields from there and changes what differs; scripts/choose.py prints such a
command.
"""

import pathlib

import ml_collections

from metamix_jax.config_file import load_config
from metamix_jax.records.paths import local_folder
from metamix_jax.records.workdir import load_config_of_run


def get_config(folder: str) -> ml_collections.ConfigDict:
  """Returns the fields of DIR/config.json; a field that is younger than the run has its value of base.py."""
  config = load_config(pathlib.Path(__file__).with_name("base.py"))
  with config.unlocked():
    for section, values in load_config_of_run(local_folder(folder)).items():
      if not isinstance(values, ml_collections.ConfigDict):
        config[section] = values
        continue
      for name, value in values.items():
        config[section][name] = value
  return config
