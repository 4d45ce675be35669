#!/usr/bin/env python
"""Times the files of an export beside the run's own evaluation, on this machine's CPU.

  python scripts/benchmarks/bench_export.py runs/digits

It reads DIR/export and prints the median milliseconds of one call at each batch size, over --repeats calls, on noise
images; then what XLA allocates for the values of one image, and the sizes of the files. "float32" is the network of the
run without quantisers, "fake-quantised" its evaluation. Nothing else should run on the machine meanwhile.
"""

import statistics
import time

from absl import app, flags
from absl import logging as absl_logging
import jax
import numpy as np
import onnxruntime

from metamix_jax.command_line import exit_on_user_error, flags_parser, folder_of_run, numbers_of
from metamix_jax.export import evaluator, memory, onnx_files, saved_network, stablehlo
from metamix_jax.method.precision import FULL_PRECISION, assigned_precision

_BATCHES = flags.DEFINE_list("batches", ["1", "32"], "Batch sizes.")
_REPEATS = flags.DEFINE_integer("repeats", 30, "Calls that are timed, after one that is not.", lower_bound=1)


def milliseconds(call, images):
  """Returns the median time of a call."""
  call(images)
  times = []
  for _ in range(_REPEATS.value):
    start = time.perf_counter()
    call(images)
    times.append(1000 * (time.perf_counter() - start))
  return statistics.median(times)


@exit_on_user_error("bench_export")
def main(argv):
  """Prints one line for each file."""
  absl_logging.set_verbosity(absl_logging.FATAL)
  workdir, sizes = folder_of_run(argv), numbers_of(_BATCHES.value, "--batches")
  folder = workdir / "export"
  saved = saved_network.read(workdir)
  network, variables = saved.network, dict(saved.variables)
  unquantized = variables | {"step_sizes": {}, "precision": FULL_PRECISION}
  quantized = variables | {"precision": assigned_precision(network.layers, saved.bits)}
  evaluate = jax.jit(lambda variables, images: network.apply(variables, images, train=False)[0])
  exported = stablehlo.load((folder / "stablehlo.bin").read_bytes())
  compiled = {
      "float32, JAX": lambda images: evaluate.lower(unquantized, images).compile(),
      "fake-quantised, JAX": lambda images: evaluate.lower(quantized, images).compile(),
      "stablehlo.bin, JAX": lambda images: exported.lower(images).compile()}
  calls = {
      "float32, JAX": lambda images: jax.block_until_ready(evaluate(unquantized, images)),
      "fake-quantised, JAX": lambda images: jax.block_until_ready(evaluate(quantized, images)),
      "stablehlo.bin, JAX": lambda images: jax.block_until_ready(exported(images))}
  program = evaluator.load(folder)
  float32 = onnx_files.make_model(program, "float32")
  session = onnx_files.session(float32)
  calls["float32, ONNX Runtime"] = lambda images, session=session: session.run(
      None, {"image": images.transpose(0, 3, 1, 2).astype(np.float32)})
  for name in ("integer.onnx", "qcdq.onnx"):
    session = onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
    calls[f"{name}, ONNX Runtime"] = lambda images, session=session: session.run(None, {"image": images})
  calls["program.npz, NumPy"] = lambda images: evaluator.evaluate(program, images)
  rng = np.random.default_rng(0)
  batches = [rng.integers(0, 256, (size, *saved.image_shape), dtype=np.uint8) for size in sizes]
  print(f"{'milliseconds':28}" + "".join(f"{f'batch {len(images)}':>12}" for images in batches))
  for name, call in calls.items():
    print(f"{name:28}" + "".join(f"{milliseconds(call, images):12.2f}" for images in batches), flush=True)
  print(f"\n{'bytes for one image':28}{'allocated':>12}")
  for name, compile_call in compiled.items():
    print(f"{name:28}{compile_call(batches[0][:1]).memory_analysis().temp_size_in_bytes:12,}", flush=True)
  for name, size in memory.peaks(program).items():
    print(f"{f'computed: {name}':28}{size:12,}")
  print(f"\n{'bytes':28}{'file':>12}\n{'float32, ONNX':28}{float32.ByteSize():12,}")
  for name in ("program.npz", "integer.onnx", "qcdq.onnx", "qonnx.onnx", "stablehlo.bin"):
    print(f"{name:28}{(folder / name).stat().st_size:12,}")


if __name__ == "__main__":
  app.run(main, flags_parser=flags_parser("bench_export"))
