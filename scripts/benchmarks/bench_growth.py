#!/usr/bin/env python
"""Measures how bit-meta and bit-search steps slow down with more bit-widths, images, pixels and layers.

  python scripts/benchmarks/bench_growth.py --config=configs/digits.py --json=growth.json --plot=growth.png

Each quantity is varied alone; everything else is as in the config. Depth is the number of repeats of every block of
config.network.options.blocks, so the network must have blocks (mobilenet_v2). The slope is fitted to log time against
log quantity: 1 means proportional; for resolution, 2 means proportional to the pixels.
"""

import copy
import statistics
import time

from absl import app, flags
from absl import logging as absl_logging
import bench
import jax
from matplotlib import ticker
from matplotlib.figure import Figure
import numpy as np

from metamix_jax.command_line import define_path, exit_on_user_error, flags_parser
from metamix_jax.errors import UserError
from metamix_jax.records import files
from metamix_jax.training import context

_PLOT = define_path("plot", None, "PNG for the plot.")
# Okabe and Ito's, which colour-blind people can tell apart.
COLOURS = {"bit-meta": "#0072B2", "bit-search": "#D55E00"}
BIT_WIDTHS = ((4, 8), (3, 4, 8), (3, 4, 6, 8), (2, 3, 4, 6, 8), (2, 3, 4, 5, 6, 8))


@exit_on_user_error("bench_growth")
def main(argv):
  """Measures the steps, prints a table, and draws a plot; a UserError becomes one sentence and status 2."""
  del argv
  absl_logging.set_verbosity(absl_logging.WARNING)
  config = bench.CONFIG.value
  for path in (bench.JSON.value, _PLOT.value):
    if path is not None:
      files.check_writable(path)
  if "blocks" not in config.network.options:
    raise UserError("config.network.options has no blocks, so there is no depth to vary; use configs/digits.py.")
  table = {}
  for quantity, variants in varied(config).items():
    table[quantity] = {"values": [value for value, _ in variants]}
    runs = [bench.compile_steps(variant, *context.networks_without_data(variant), ("bit-meta", "bit-search"))[0]
            for _, variant in variants]
    for name in COLOURS:
      seconds = measure([run[name] for run in runs])
      slope = np.polyfit(np.log(table[quantity]["values"]), np.log(seconds), 1)[0]
      table[quantity][name] = {"ms": [1000 * value for value in seconds], "slope": slope}
    jax.clear_caches()
  if bench.JSON.value is not None:
    files.write_json(bench.JSON.value, table)
  if _PLOT.value is not None:
    plot(table, _PLOT.value)
  print("| varied | values | bit-meta [ms] | slope | bit-search [ms] | slope |\n|---|---|---|---|---|---|")
  for quantity, line in table.items():
    cells = [", ".join(f"{value:g}" for value in line["values"])]
    for name in COLOURS:
      cells += [", ".join(f"{value:.0f}" for value in line[name]["ms"]), f"{line[name]['slope']:.2f}"]
    print(f"| {quantity} | " + " | ".join(cells) + " |")


def varied(config):
  """Returns {quantity: [(value, config)]}."""
  def variants(values, change):
    found = []
    for value in values:
      other = copy.deepcopy(config)
      with other.unlocked():
        number = change(other, value)
      found.append((number, other))
    return found

  def bit_widths(other, bits):
    other.quantization.candidate_bits = bits
    return len(bits)

  def batch(other, factor):
    other.batch_size = int(config.batch_size * factor)
    return other.batch_size

  def resolution(other, factor):
    other.data.image_size = int(config.data.image_size * factor)
    return other.data.image_size

  def depth(other, repeats):
    blocks = config.network.options.blocks
    other.network.options.blocks = tuple((e, c, repeats, s) for e, c, _, s in blocks)
    return repeats * len(blocks)

  return {
      "bit-widths": variants(BIT_WIDTHS, bit_widths), "images in a batch": variants((0.5, 1, 2, 4), batch),
      "image side [pixels]": variants((1, 2, 3), resolution), "blocks": variants((1, 2, 3, 4), depth)}


def measure(runs):
  """Returns the median seconds of each function, called in turns."""
  seconds = [[] for _ in runs]
  for number in range(bench.ROUNDS.value + 1):
    for run, values in zip(runs, seconds, strict=True):
      start = time.perf_counter()
      run()
      if number:
        values.append(time.perf_counter() - start)
  return [statistics.median(values) for values in seconds]


def plot(table, path):
  """Draws one panel for each quantity; both axes are logarithmic."""
  figure = Figure(figsize=(4 * len(table), 3.6), layout="constrained")
  panels = figure.subplots(1, len(table), sharey=True)
  for panel, (quantity, line) in zip(panels, table.items(), strict=True):
    for (name, colour), marker in zip(COLOURS.items(), "os", strict=True):
      panel.loglog(line["values"], line[name]["ms"], marker=marker, color=colour,
                   label=f"{name}, slope {line[name]['slope']:.2f}")
    panel.set_xlabel(quantity)
    panel.set_xticks(line["values"], [f"{value:g}" for value in line["values"]])
    panel.xaxis.set_minor_locator(ticker.NullLocator())
    panel.legend()
    panel.grid(alpha=0.3)
  panels[0].yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
  panels[0].yaxis.set_major_formatter("{x:g}")
  panels[0].yaxis.set_minor_locator(ticker.NullLocator())
  panels[0].set_ylabel("time of a step [ms]")
  figure.suptitle("How a step's time grows")
  figure.savefig(path, dpi=120)


if __name__ == "__main__":
  flags.mark_flag_as_required("config")
  app.run(main, flags_parser=flags_parser("bench_growth"))
