"""The steps of a config compiled for a TPU slice ahead of time, without a TPU, and what the compiler says of them."""

import math
import os
import re

# The TPU compiler asks for these before it knows that no TPU is wanted; any well-formed value does.
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # The compiler alone may be in use several times.

import jax
from jax.experimental import topologies
import synthetic

from metamix_jax.errors import UserError
from metamix_jax.method.bops import lowest_bits
from metamix_jax.method.precision import assigned_precision
from metamix_jax.training import parallel

STEPS = ("teacher", "bit-meta", "bit-search", "stage A", "stage B")
# GiB of one chip's memory: Cloud TPU's documentation of each generation.
CHIP_MEMORY = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}
ITEM_BYTES = {"f32": 4, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "pred": 1, "s8": 1, "u8": 1, "f64": 8}


class TooLarge(UserError):
  """Reports a program that needs more memory than a chip has; `amount` says how much, or is empty."""

  def __init__(self, amount):
    super().__init__(f"the program does not fit{amount}; use more chips or a smaller batch.")
    self.amount = amount


def set_for_tpus(config):
  """Sets the fields of a config that would otherwise ask this machine what it is."""
  if config.quantization.depthwise == "auto":
    config.quantization.depthwise = "native"


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


def compile_step(program, arguments, effort):
  """Compiles a step for the chips of its program.

  Args:
    program: from `programs`.
    arguments: shapes of its arguments.
    effort: of the compiler, from -1 to 1.

  Returns:
    The compiled program.

  Raises:
    TooLarge: it needs more memory than the chip has.
  """
  try:
    return program.lower(*arguments).compile({"exec_time_optimization_effort": effort})
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    needed = re.search(r"Used (\S+) of (\S+) hbm", str(error))
    raise TooLarge(f": {needed[1]} of {needed[2]} needed" if needed else "") from error


def memory_bytes(compiled):
  """Returns the memory that a compiled program needs on each chip, in bytes: arguments, outputs and temporaries."""
  sizes = compiled.memory_analysis()
  return (sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes
          - sizes.alias_size_in_bytes)


def loop_turns(text):
  """Counts the executions of each computation of a compiled program, by name, with each turn of a loop.

  The CPU compiler writes the number of turns beside a loop (known_trip_count), the TPU compiler does not. JAX's loops
  count from 0, so the number with which the condition compares the counter says it. A loop with neither counts once,
  and so does what stands in a branch of a conditional. A computation with several callers counts as for the last one.
  """
  turns, calls, limits, constants, current = {}, [], {}, {}, None
  for line in text.splitlines():
    header = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
    if header:
      current, constants = header[2], {}
      if header[1]:
        turns[current] = 1
    if constant := re.search(r"%?([\w.\-]+) = s32\[\]\S* constant\((\d+)\)", line):
      constants[constant[1]] = int(constant[2])
    if compared := re.search(r" compare\(.*[% ]([\w.\-]+)\), direction=LT", line):
      limits[current] = constants.get(compared[1])
    trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
    condition = re.search(r"condition=%?([\w.\-]+)", line)
    for called in re.findall(r"(?:body|calls|to_apply|condition)=%?([\w.\-]+)", line):
      calls.append((current, called, int(trips[1]) if trips else None, condition and condition[1]))
  for _ in range(len(calls)):
    before = dict(turns)
    for caller, called, trips, condition in calls:
      if caller in turns:
        turns[called] = turns[caller] * (trips or limits.get(condition) or 1)
    if turns == before:
      return turns
  return turns


def all_reduces(text, turns):
  """Returns (bytes that it sums on each chip, executions) of each all-reduce of a compiled program.

  Args:
    text: of the compiled program.
    turns: executions of its computations, from `loop_turns`.
  """
  found, current = [], None
  for line in text.splitlines():
    header = re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line)
    if header:
      current = header[1]
    reduced = re.search(r"= (.*?) all-reduce(?:-start)?\(", line)
    if reduced:
      size = sum(ITEM_BYTES[kind] * math.prod(int(side) for side in shape.split(",") if side)
                 for kind, shape in re.findall(r"(\w+)\[([\d,]*)\]", reduced[1]))
      found.append((size, turns.get(current, 1)))
  return found


def describe(text, costs, memory):
  """Returns what one compiled program needs on each chip, for JSON.

  Args:
    text: of the compiled program.
    costs: from the compiler's cost analysis; the body of a loop is counted once.
    memory: of arguments, outputs and temporaries, in bytes.

  Returns:
    "flops" and "bytes" as in `costs`; "turns" of the loop over bit-widths, the most executions of an all-reduce;
    "memory"; "all_reduces": [bytes, executions], largest first, those of the same size together.
  """
  together = {}
  for size, times in (reduced := all_reduces(text, loop_turns(text))):
    together[size] = together.get(size, 0) + times
  return {
      "flops": costs["flops"], "bytes": costs["bytes accessed"],
      "turns": max((times for _, times in reduced), default=1), "memory": memory,
      "all_reduces": sorted(([size, times] for size, times in together.items()), reverse=True)}
