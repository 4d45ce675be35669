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

import os
import re
import time

# The TPU compiler asks for these before it knows that no TPU is wanted; any well-formed value does.
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # The compiler alone may be in use several times.

from absl import app, flags
from absl import logging as absl_logging
import jax
from jax.experimental import topologies
from ml_collections import config_flags
import numpy as np
import synthetic

from metamix_jax.command_line import exit_on_user_error, flags_parser, numbers_of
from metamix_jax.config import check_batch_size
from metamix_jax.errors import UserError
from metamix_jax.method.bops import candidate_widths, lowest_bits
from metamix_jax.method.precision import assigned_precision
from metamix_jax.training import context, parallel

_CONFIG = config_flags.DEFINE_config_file("config", None, "The config, a Python file with get_config().")
_TOPOLOGY = flags.DEFINE_string("topology", "v5e:4x4", "Generation and shape of a slice, such as v5e:8x8.")
_BATCH_SIZES = flags.DEFINE_list("batch_sizes", None, "Global batch sizes; by default the config's.")
STEPS = ("teacher", "bit-meta", "bit-search", "stage A", "stage B")
_STEPS = flags.DEFINE_list("steps", list(STEPS), "Which of them to compile.")
_EFFORT = flags.DEFINE_float("effort", 0.0, "Of the compiler, from -1 to 1.", lower_bound=-1.0, upper_bound=1.0)

# GiB of one chip's memory: Cloud TPU's documentation of each generation.
CHIP_MEMORY = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}
ITEM_BYTES = {"f32": 4, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "pred": 1, "s8": 1, "u8": 1, "f64": 8}


@exit_on_user_error("aot_tpu")
def main(argv):
  """Compiles and prints; a bad input ends in one sentence and status 2."""
  del argv
  absl_logging.set_verbosity(absl_logging.WARNING)
  config = _CONFIG.value
  devices = topology_devices(_TOPOLOGY.value)
  if config.quantization.depthwise == "auto":
    config.quantization.depthwise = "native"  # "auto" would ask this machine.
  networks = context.networks_without_data(config)
  batch_sizes = numbers_of(_BATCH_SIZES.value or [str(config.batch_size)], "--batch_sizes")
  for size in batch_sizes:
    check_batch_size("batch_size", size, len(devices))
  for name in _STEPS.value:
    if name not in STEPS:
      raise UserError(f"--steps names {name!r}; allowed are {', '.join(STEPS)}.")
  memory = CHIP_MEMORY[_TOPOLOGY.value.partition(":")[0]]
  print(f"{_TOPOLOGY.value}, {len(devices)} chips of {memory} GiB; {config.network.name}, {config.compute_dtype}, "
        f"teacher {config.teacher.name}, bit-widths {candidate_widths(networks[0].layers)}; JAX {jax.__version__}, "
        f"effort {_EFFORT.value:g}\n")
  print("| global batch | step | arguments [MB] | outputs [MB] | temporaries [MB] | of the chip's memory | GFLOPs | "
        "all-reduces | their MB | compiled in [s] |")
  print("|---|---|---|---|---|---|---|---|---|---|")
  for size in batch_sizes:
    for name, program, arguments in programs(config, *networks, devices, size):
      if name not in _STEPS.value:
        continue
      print(f"| {size} | {name} | {row(program, arguments, memory)}", flush=True)


def topology_devices(name):
  """Describes the chips of a slice, without a TPU; raises UserError if the slice or the TPU compiler does not exist."""
  generation = name.partition(":")[0]
  if generation not in CHIP_MEMORY:
    raise UserError(f"--topology is {name!r}; allowed are GENERATION:SHAPE with {', '.join(CHIP_MEMORY)}.")
  try:
    return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
  except Exception as error:  # JAX raises several types, for a missing wheel and for a wrong shape.
    raise UserError(
        f"--topology {name!r} cannot be described ({str(error).splitlines()[0]}); it needs the libtpu wheel and a "
        "shape that exists, such as v5e:4x4.") from error


def programs(config, network, teacher_network, devices, batch_size):
  """Yields (name, program, shapes of its arguments) of each step."""
  steps = parallel.make_programs(devices, matmul_precision=config.matmul_precision)
  channels = len(config.data.mean)
  states = jax.eval_shape(lambda: synthetic.create_states(config, network, teacher_network, channels))
  size = config.data.image_size
  shape = (size, size, channels)
  batch = synthetic.batch_shapes(len(devices), batch_size, shape, synthetic.num_outputs(states.full_precision, shape))
  assigned = jax.eval_shape(lambda: assigned_precision(
      network.layers, lowest_bits(network.layers)))
  if states.teacher is not None:
    yield "teacher", steps.teacher_targets, (states.teacher, batch)
  yield "bit-meta", steps.bit_meta_step, (states.meta, batch)
  yield "bit-search", steps.bit_search_steps, (states.archs, states.meta, batch)
  yield "stage A", steps.weight_step, (states.meta, assigned, batch)
  yield "stage B", steps.weight_step, (states.stage_b, assigned, batch)


def row(program, arguments, memory):
  """Returns the cells of one step."""
  start = time.monotonic()
  try:
    compiled = program.lower(*arguments).compile({"exec_time_optimization_effort": _EFFORT.value})
  except jax.errors.JaxRuntimeError as error:  # More than the chip has.
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    needed = re.search(r"Used (\S+) of (\S+) hbm", str(error))
    amount = f": {needed[1]} of {needed[2]} needed" if needed else ""
    return f"does not fit{amount} | | | | | | | |"
  seconds = time.monotonic() - start
  sizes = compiled.memory_analysis()
  parts = (sizes.argument_size_in_bytes, sizes.output_size_in_bytes, sizes.temp_size_in_bytes)
  share = (sum(parts) - sizes.alias_size_in_bytes) / (memory * 2**30)
  text = compiled.as_text()
  turns = loop_turns(text)
  count, total = all_reduces(text, turns)
  cells = [f"{part / 1e6:.0f}" for part in parts] + [
      f"{share:.1%}", f"{compiled.cost_analysis()['flops'] / 1e9:.0f}", f"{count}", f"{total / 1e6:.1f}",
      f"{seconds:.0f}"]
  return " | ".join(cells) + " |"


def loop_turns(text):
  """Counts the executions of each computation of a compiled program, by name, with each turn of a loop."""
  turns, calls, current = {}, [], None
  for line in text.splitlines():
    header = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
    if header:
      current = header[2]
      if header[1]:
        turns[current] = 1
    trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
    for called in re.findall(r"(?:body|calls|to_apply|condition)=%?([\w.\-]+)", line):
      calls.append((current, called, int(trips[1]) if trips else 1))
  for _ in range(len(calls)):
    before = dict(turns)
    for caller, called, trips in calls:
      if caller in turns:
        turns[called] = turns[caller] * trips
    if turns == before:
      return turns
  return turns


def all_reduces(text, turns):
  """Counts the all-reduces that a program runs, and the bytes that they sum on each chip."""
  count = total = 0
  current = None
  for line in text.splitlines():
    header = re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line)
    if header:
      current = header[1]
    reduced = re.search(r"= (.*?) all-reduce(?:-start)?\(", line)
    if reduced:
      times = turns.get(current, 1)
      count += times
      for kind, shape in re.findall(r"(\w+)\[([\d,]*)\]", reduced[1]):
        total += times * ITEM_BYTES[kind] * int(np.prod([int(side) for side in shape.split(",") if side]))
  return count, total


if __name__ == "__main__":
  flags.mark_flag_as_required("config")
  app.run(main, flags_parser=flags_parser("aot_tpu"))
