#!/usr/bin/env python
"""Times the steps of a config on random images, in turns in one process, and compares each with its floor.

  python scripts/benchmarks/bench.py --config=configs/imagenet.py:mobilenet_v3_large --config.batch_size=16
  --compare=native    also times autodiff quantisers with XLA's depthwise convolutions
  --compare=torch     also times PyTorch's full-precision step, channels_last, at the same precision
  --json=FILE         also writes the figures to a file

The config determines everything: network, resolution, batch, bit-widths, teacher, compute type. The floor of a step is
the least it could take, in full-precision training steps F of the same run: |B| F for bit-meta, F for each target of
the search, F for a stage. An iteration also takes the teacher's pass T, once for each batch. The ratio to the floor is
the median over the rounds of the ratio within a round, because ratios vary less than times. On CPUs, run
`source scripts/cpu_environment.sh` first.
"""

import dataclasses
import functools
import statistics
import time

from absl import app, flags
from absl import logging as absl_logging
import jax
import jax.numpy as jnp
from ml_collections import config_flags
from plain_quantizers import PLAIN
import synthetic
import torch_step

from metamix_jax.command_line import define_path, exit_on_user_error, flags_parser
from metamix_jax.data.cores import available_cores
from metamix_jax.errors import UserError
from metamix_jax.method.bops import candidate_widths
from metamix_jax.records import files
from metamix_jax.records.names import targets
from metamix_jax.training import context, parallel

CONFIG = config_flags.DEFINE_config_file("config", None, "The config, a Python file with get_config().")
_COMPARE = flags.DEFINE_multi_enum("compare", [], ["native", "torch"], "What to time as well.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "Times that each step is measured, after one that is not.", lower_bound=1)
_STEPS = flags.DEFINE_list("steps", None, "Names of the steps to time besides F and T; by default all.")
JSON = define_path("json", None, "File for the figures.")

F, T, TORCH = synthetic.FULL_PRECISION_STEP, synthetic.TEACHER_STEP, "PyTorch full precision"
STEPS = ("bit-meta", "bit-search", "stage A", "stage B", "evaluation")


@exit_on_user_error("bench")
def main(argv):
  """Measures the steps and prints a table; a UserError becomes one sentence and status 2."""
  del argv
  absl_logging.set_verbosity(absl_logging.WARNING)
  config = CONFIG.value
  if JSON.value is not None:
    files.check_writable(JSON.value)
  names = _STEPS.value and [F, T, *_STEPS.value]
  for name in _STEPS.value or ():
    if name not in STEPS:
      raise UserError(f"--steps names {name!r}; allowed are {', '.join(STEPS)}.")
  networks = context.networks_without_data(config)
  # Before anything is compiled: PyTorch may be missing.
  torch_run = torch_step.full_precision_step(config) if "torch" in _COMPARE.value else None
  programs, measured = compile_steps(config, *networks, names)
  if "native" in _COMPARE.value:
    plain = [network and with_plain_quantizers(network) for network in networks]
    runs, facts = compile_steps(config, *plain, names)
    programs |= {f"{name}, native": run for name, run in runs.items() if name != T}
    measured |= {f"{name}, native": values for name, values in facts.items() if name != T}
  if torch_run is not None:
    programs[TORCH], measured[TORCH] = torch_run, {}
  seconds = {name: [] for name in programs}
  for number in range(ROUNDS.value + 1):
    for name, run in programs.items():
      start = time.perf_counter()
      run()
      if number:
        seconds[name].append(time.perf_counter() - start)
  peak = matrix_multiply_rate(config)
  table = [figures(config, name, seconds, measured[name], peak) for name in programs]
  facts = {
      "network": config.network.name, "image_size": config.data.image_size, "batch_size": config.batch_size,
      "candidate_bits": list(candidate_widths(networks[0].layers)), "targets": len(targets(config)),
      "compute_dtype": config.compute_dtype,
      "matmul_precision": config.matmul_precision,
      "teacher": config.teacher.name, "device": jax.devices()[0].device_kind, "num_devices": jax.device_count(),
      "cores": available_cores(), "matrix_multiply_gflops": peak, "jax": jax.__version__}
  if JSON.value is not None:
    files.write_json(JSON.value, {"facts": facts, "steps": table, "seconds": seconds})
  print(", ".join(
      f"{name} {value:.0f}" if isinstance(value, float) else f"{name} {value}" for name, value in facts.items()))
  print("\n| step | ms | images/s | in F | to its floor | in PyTorch F | compile [s] | temporaries [MB] | GFLOP | "
        "of the matrix-multiply rate |")
  print("|---|---|---|---|---|---|---|---|---|---|")
  for line in table:
    print("| " + " | ".join(cell(value) for value in line.values()) + " |")


def with_plain_quantizers(network):
  """Returns the same network with automatic differentiation of its quantisers and XLA's convolutions."""
  scheme = network.module.scheme
  scheme = dataclasses.replace(
      scheme, quantizer=PLAIN, placement=dataclasses.replace(scheme.placement, depthwise="native"))
  return dataclasses.replace(network, module=network.module.clone(scheme=scheme))


def compile_steps(config, network, teacher_network, names):
  """Returns {name: function that runs the step once and waits}, {name: compile time, memory and FLOPs}.

  `names`: steps to compile; None: all.
  """
  steps = parallel.make_programs(matmul_precision=config.matmul_precision)
  # The least passes forward and backward that a step could take.
  passes = {F: 1, "bit-meta": len(candidate_widths(network.layers)), "bit-search": len(targets(config)), "stage A": 1,
            "stage B": 1}
  runs, facts = {}, {}
  for name, (field, values) in synthetic.step_arguments(config, network, teacher_network, steps).items():
    if names and name not in names:
      continue
    start = time.perf_counter()
    compiled = getattr(steps, field).lower(*values).compile()
    compile_seconds = time.perf_counter() - start
    # A compiled program of a GPU calls libraries, whose operations XLA does not count.
    flops = compiled.cost_analysis().get("flops") if jax.default_backend() == "cpu" else None
    facts[name] = {
        "passes": passes.get(name),
        "compile_seconds": compile_seconds,
        "temporaries_mb": compiled.memory_analysis().temp_size_in_bytes / 1e6,
        "gflop": flops and flops / 1e9 * passes.get(name, 1)}  # A loop's body is counted once.
    runs[name] = repeated(compiled, values)
  return runs, facts


def repeated(compiled, values):
  """Returns a function that runs a step and waits; a training step continues from the state of its last call."""
  values = list(jax.tree.map(jnp.copy, values))  # A training step's state is donated to it; others use it as well.

  def run():
    result = jax.block_until_ready(compiled(*values))
    if isinstance(result, tuple):
      values[0] = result[0]

  return run


def figures(config, name, seconds, measured, peak):
  """Returns one line of the table."""
  passes = measured.get("passes")
  median = statistics.median(seconds[name])
  ratio = lambda other: statistics.median(a / b for a, b in zip(seconds[name], seconds[other], strict=True))
  gflop = measured.get("gflop")
  return {
      "step": name, "ms": 1000 * median, "images_per_second": config.batch_size / median, "in_f": ratio(F),
      "to_floor": ratio(F) / passes if passes else None, "in_torch_f": ratio(TORCH) if TORCH in seconds else None,
      "compile_seconds": measured.get("compile_seconds"), "temporaries_mb": measured.get("temporaries_mb"),
      "gflop": gflop, "of_peak": gflop / median / peak if gflop else None}


def cell(value):
  """Returns a value of the table as text."""
  if value is None:
    return ""
  if isinstance(value, str):
    return value
  return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def matrix_multiply_rate(config):
  """Measures the GFLOP/s of a product of two square matrices, in the compute type and precision of a config."""
  size = 2048 if jax.default_backend() == "cpu" else 8192  # The larger fills a GPU, and takes minutes on a CPU.
  matrix = jax.random.normal(jax.random.key(0), (size, size), config.compute_dtype)
  multiply = jax.jit(functools.partial(jnp.dot, precision=config.matmul_precision))
  seconds = []
  for _ in range(6):
    start = time.perf_counter()
    jax.block_until_ready(multiply(matrix, matrix))
    seconds.append(time.perf_counter() - start)
  return 2 * size**3 / min(seconds) / 1e9


if __name__ == "__main__":
  flags.mark_flag_as_required("config")
  app.run(main, flags_parser=flags_parser("bench"))
