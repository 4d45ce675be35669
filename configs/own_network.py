"""A network of your own on the digits: the README's, with nothing registered anywhere.

Command, in the folder of the README: python -m metamix_jax.main --config=configs/own_network.py --workdir=runs/own
"""

import ml_collections

from configs import digits


def get_config() -> ml_collections.ConfigDict:
  """The config of the digits with another network; a network's options belong to it, so both are set."""
  config = digits.get_config()
  with config.unlocked():
    config.network.name = "tests.own_network:PlainNetwork"
    config.network.options = ml_collections.ConfigDict(dict(features=(16, 32)))
  config.arch.target_gbops = 0.006  # Of 0.0050 at 3 bits to 0.0095 at 8.
  return config
