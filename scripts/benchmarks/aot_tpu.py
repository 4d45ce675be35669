#!/usr/bin/env python
"""Compiles the steps of a config for a TPU topology ahead of time, on any machine, and prints what each chip needs.

  pip install "jax[tpu]"            # or the libtpu wheel alone; no TPU is needed
  JAX_PLATFORMS=cpu python scripts/benchmarks/aot_tpu.py --topology=v5e:4x4 --config=configs/imagenet.py:resnet18
  JAX_PLATFORMS=cpu python scripts/benchmarks/aot_tpu.py --topology=v5e:8x8 --config=... --batch_sizes=256,512,1024

For each global batch size and each step it prints, per chip: memory of arguments, outputs and temporaries as the
compiler reports it, and their sum against the chip's memory; FLOPs as the compiler counts them, with the body of a loop
counted once (bit-meta is a loop over the bit-widths); all-reduces and the bytes that they sum, with each turn of a loop
counted. Nothing is run, so speed and numbers are not verified. The compiler takes minutes for a step; --effort=-1 takes
a quarter of the time, and its temporaries differ by a few percent.
"""

import time

from absl import app, flags
from absl import logging as absl_logging
import jax
from ml_collections import config_flags
import tpu_programs

from metamix_jax.command_line import exit_on_user_error, flags_parser, numbers_of
from metamix_jax.config import check_batch_size
from metamix_jax.errors import UserError
from metamix_jax.method.bops import candidate_widths
from metamix_jax.training import context

_CONFIG = config_flags.DEFINE_config_file("config", None, "The config, a Python file with get_config().")
_TOPOLOGY = flags.DEFINE_string("topology", "v5e:4x4", "Generation and shape of a slice, such as v5e:8x8.")
_BATCH_SIZES = flags.DEFINE_list("batch_sizes", None, "Global batch sizes; by default the config's.")
_STEPS = flags.DEFINE_list("steps", list(tpu_programs.STEPS), "Which of them to compile.")
_EFFORT = flags.DEFINE_float("effort", 0.0, "Of the compiler, from -1 to 1.", lower_bound=-1.0, upper_bound=1.0)


@exit_on_user_error("aot_tpu")
def main(argv):
  """Compiles and prints; a bad input ends in one sentence and status 2."""
  del argv
  absl_logging.set_verbosity(absl_logging.WARNING)
  config = _CONFIG.value
  devices = tpu_programs.topology_devices(_TOPOLOGY.value)
  tpu_programs.set_for_tpus(config)
  networks = context.networks_without_data(config)
  batch_sizes = numbers_of(_BATCH_SIZES.value or [str(config.batch_size)], "--batch_sizes")
  for size in batch_sizes:
    check_batch_size("batch_size", size, len(devices))
  for name in _STEPS.value:
    if name not in tpu_programs.STEPS:
      raise UserError(f"--steps names {name!r}; allowed are {', '.join(tpu_programs.STEPS)}.")
  memory = tpu_programs.CHIP_MEMORY[_TOPOLOGY.value.partition(":")[0]]
  print(f"{_TOPOLOGY.value}, {len(devices)} chips of {memory} GiB; {config.network.name}, {config.compute_dtype}, "
        f"teacher {config.teacher.name}, bit-widths {candidate_widths(networks[0].layers)}; JAX {jax.__version__}, "
        f"effort {_EFFORT.value:g}\n")
  print("| global batch | step | arguments [MB] | outputs [MB] | temporaries [MB] | of the chip's memory | GFLOPs | "
        "all-reduces | their MB | compiled in [s] |")
  print("|---|---|---|---|---|---|---|---|---|---|")
  for size in batch_sizes:
    for name, program, arguments in tpu_programs.programs(config, *networks, devices, size):
      if name not in _STEPS.value:
        continue
      print(f"| {size} | {name} | {row(program, arguments, memory)}", flush=True)


def row(program, arguments, memory):
  """Returns the cells of one step."""
  start = time.monotonic()
  try:
    compiled = tpu_programs.compile_step(program, arguments, _EFFORT.value)
  except tpu_programs.TooLarge as error:
    return f"does not fit{error.amount} | | | | | | | |"
  seconds = time.monotonic() - start
  sizes = compiled.memory_analysis()
  parts = (sizes.argument_size_in_bytes, sizes.output_size_in_bytes, sizes.temp_size_in_bytes)
  text = compiled.as_text()
  reduced = tpu_programs.all_reduces(text, tpu_programs.loop_turns(text))
  count, total = sum(times for _, times in reduced), sum(size * times for size, times in reduced)
  share = tpu_programs.memory_bytes(compiled) / (memory * 2**30)
  cells = [f"{part / 1e6:.0f}" for part in parts] + [
      f"{share:.1%}", f"{compiled.cost_analysis()['flops'] / 1e9:.0f}", f"{count}", f"{total / 1e6:.1f}",
      f"{seconds:.0f}"]
  return " | ".join(cells) + " |"


if __name__ == "__main__":
  flags.mark_flag_as_required("config")
  app.run(main, flags_parser=flags_parser("aot_tpu"))
