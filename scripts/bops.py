#!/usr/bin/env python
"""Prints the cost of every layer of a config's network, and of the whole network at each bit-width.

  python scripts/bops.py --config=configs/digits.py                        every searched layer at its lowest bits
  python scripts/bops.py --config=configs/digits.py --bits=8               every searched layer at 8 bits
  python scripts/bops.py --config=configs/digits.py --bits=selected_bits.json

It needs no data, because the number of classes of a data set is known before it is prepared. Nothing is compiled.
"""

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from metamix_jax.command_line import exit_on_user_error, flags_parser
from metamix_jax.errors import UserError
from metamix_jax.method.bops import complete_bits, lowest_bits, uniform_bits, uniform_widths
from metamix_jax.records.paths import local_path
from metamix_jax.records.selected_bits import read_selected_bits
from metamix_jax.reporting.costs import format_costs
from metamix_jax.training import context

_CONFIG = config_flags.DEFINE_config_file("config", None, "The config, a Python file with get_config().")
_BITS = flags.DEFINE_string("bits", None, "A candidate bit-width for all searched layers, or a selected_bits.json.")


@exit_on_user_error("bops")
def main(argv):
  """Prints the table; a UserError becomes one sentence and status 2."""
  del argv
  absl_logging.set_verbosity(absl_logging.WARNING)
  network, _ = context.networks_without_data(_CONFIG.value)
  print(format_costs(network.layers, _activation_bits(network.layers), network.module.scheme.layer_bits))


def _activation_bits(layers):
  """Returns the bits by layer name that --bits asks for."""
  if _BITS.value is None:
    return lowest_bits(layers)
  if not _BITS.value.isdecimal():
    return complete_bits(layers, read_selected_bits(local_path(_BITS.value, "--bits"), layers, "--bits"))
  if int(_BITS.value) not in uniform_widths(layers):
    raise UserError(f"--bits is {_BITS.value}; allowed are {uniform_widths(layers)} or a selected_bits.json.")
  return uniform_bits(layers, int(_BITS.value))


if __name__ == "__main__":
  flags.mark_flag_as_required("config")
  app.run(main, flags_parser=flags_parser("bops"))
