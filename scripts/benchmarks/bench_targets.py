#!/usr/bin/env python
"""Measures the cost of more targets in the search: an iteration with 1, 2, 4 and 8 targets, in turns in one process.

  python scripts/benchmarks/bench_targets.py --config=configs/digits.py

An iteration is the teacher's pass, the bit-meta step and the bit-search step of every target, on random images. Targets
are spread evenly over the attainable range. The whole phase includes the bit-meta-only epochs of the config. A ratio to
one target is the median over the rounds of the ratio within a round. On CPUs, run `source scripts/cpu_environment.sh`
first.
"""

import copy
import pathlib
import statistics
import time

from absl import app, flags
from absl import logging as absl_logging
import bench
import numpy as np

from metamix_jax.command_line import exit_on_user_error, flags_parser, numbers_of
from metamix_jax.method.bops import attainable_range
from metamix_jax.records import files
from metamix_jax.training import context

_COUNTS = flags.DEFINE_list("counts", ["1", "2", "4", "8"], "Numbers of targets; the first is what ratios are to.")


@exit_on_user_error("bench_targets")
def main(argv):
  """Measures the iterations and prints a table."""
  del argv
  absl_logging.set_verbosity(absl_logging.WARNING)
  if bench.JSON.value is not None:
    files.check_writable(bench.JSON.value)
  config, counts = bench.CONFIG.value, numbers_of(_COUNTS.value, "--counts")
  networks = context.networks_without_data(config)
  shared, _ = bench.compile_steps(config, *networks, [bench.T, "bit-meta"])
  searches, facts = {}, {}
  for count in counts:
    variant = with_targets(config, networks[0], count)
    run, measured = bench.compile_steps(variant, *networks, ["bit-search"])
    searches[count], facts[count] = run["bit-search"], measured["bit-search"]
  seconds = {name: [] for name in (*shared, *searches)}
  for number in range(bench.ROUNDS.value + 1):
    for name, run in (shared | searches).items():
      start = time.perf_counter()
      run()
      if number:
        seconds[name].append(time.perf_counter() - start)

  rest = np.sum([seconds[name] for name in shared], axis=0)
  section = config.bit_selection
  searching = (section.epochs - section.meta_only_epochs) / section.epochs
  iterations = {count: rest + seconds[count] for count in counts}
  phases = {count: rest + searching * np.array(seconds[count]) for count in counts}
  if bench.JSON.value is not None:
    files.write_json(pathlib.Path(bench.JSON.value), seconds)
  print(", ".join(f"{name} {1000 * statistics.median(seconds[name]):.0f} ms" for name in shared))
  print("\n| targets | bit-search [ms] | iteration [ms] | to one target | whole phase, to one target "
        "| temporaries [MB] |")
  print("|---|---|---|---|---|---|")
  for count in counts:
    print(f"| {count} | {1000 * statistics.median(seconds[count]):.0f} | {1000 * np.median(iterations[count]):.0f} | "
          f"{np.median(iterations[count] / iterations[counts[0]]):.2f} | "
          f"{np.median(phases[count] / phases[counts[0]]):.2f} | {facts[count]['temporaries_mb']:.0f} |")


def with_targets(config, network, count):
  """Returns the config with `count` targets, spread evenly over the attainable range."""
  config = copy.deepcopy(config)
  low, high = attainable_range(network.layers)
  config.arch.target_gbops = tuple(float(target) for target in np.linspace(low, high, count + 2)[1:-1])
  return config


if __name__ == "__main__":
  flags.mark_flag_as_required("config")
  app.run(main, flags_parser=flags_parser("bench_targets"))
