#!/usr/bin/env python
"""Measures the latency of each layer on this machine in ONNX Runtime, and writes it as a cost table (docs/costs.md).

  python scripts/measure_costs.py --config=configs/digits.py --csv=latency.csv

ONNX Runtime's CPU kernels run two bit-widths: 8 bits (QLinearConv and QLinearMatMul, uint8 by int8) and float32. Fewer
bits run as 8 in the same containers, so all candidates of a layer get the time of its 8-bit kernel; float32 is the row
at 32 bits. On this machine, in this runtime, a search below 8 bits therefore saves no time, and its table says so. Copy
the script for a runtime that has more kernels: `time_of` is all that knows this one.

Each layer runs alone, on one image, at its own shapes; the value is the median of --repetitions runs.
"""

from collections.abc import Iterator
import csv
import io
import statistics
import time

from absl import app, flags
from absl import logging as absl_logging
from flax import linen as nn
import jax
import jax.numpy as jnp
from ml_collections import config_flags
import numpy as np

from metamix_jax.command_line import define_path, exit_on_user_error, flags_parser
from metamix_jax.errors import UserError
from metamix_jax.export.tracing import window_of_layer
from metamix_jax.method.bops import FULL_PRECISION_BITS, LayerCost
from metamix_jax.models.network import Network
from metamix_jax.nn.layers import QuantConv, QuantDense, QuantLayer
from metamix_jax.records.files import check_writable, write_text
from metamix_jax.training import context

KERNEL_BITS = 8
_WARM_UP_RUNS = 3  # The first run of a session allocates and packs weights.
_CONFIG = config_flags.DEFINE_config_file("config", None, "The config, a Python file with get_config().")
_CSV = define_path("csv", None, "The table to write.")
_REPETITIONS = flags.DEFINE_integer("repetitions", 50, "Runs of each layer and bit-width.", lower_bound=1)
_THREADS = flags.DEFINE_integer("threads", 1, "Threads of ONNX Runtime.", lower_bound=1)


@exit_on_user_error("measure_costs")
def main(argv):
  """Measures and writes the table; a UserError becomes one sentence and status 2."""
  if len(argv) > 1:
    raise UserError(f"unknown argument {argv[1]!r}; allowed are --config, --csv, --repetitions and --threads.")
  absl_logging.set_verbosity(absl_logging.WARNING)
  check_writable(_CSV.value)
  network, _ = context.networks_without_data(_CONFIG.value)
  shape = (_CONFIG.value.data.image_size,) * 2 + (len(_CONFIG.value.data.mean),)
  rows = list(measure(network, shape, _REPETITIONS.value, _THREADS.value))
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(["layer", "activation_bits", "weight_bits", "latency [ms]"])
  writer.writerows(rows)
  write_text(_CSV.value, text.getvalue())
  print(f"Bit-widths that ONNX Runtime ran: {KERNEL_BITS} (fewer bits run as {KERNEL_BITS}) and float32.\n"
        f"Written: {_CSV.value}, {len(rows)} rows.")


def measure(
    network: Network, image_shape: tuple[int, int, int], runs: int, threads: int
) -> Iterator[tuple[str, int, int, str]]:
  """Yields (layer, activation bits, weight bits, milliseconds) of every layer: its candidates, 8 bits and float32.

  Args:
    network: the network.
    image_shape: (H, W, C).
    runs: of each layer and bit-width.
    threads: of ONNX Runtime.

  Raises:
    UserError: a layer has a class of its own, or ONNX Runtime is not installed.
  """
  modules = _modules(network.module, image_shape)
  for layer in network.layers:
    module, shape = modules[layer.name]
    quantized, full = (f"{time_of(module, shape, kernel, runs, threads):.6f}" for kernel in ("8 bits", "float32"))
    for bits in _measured_bits(layer):
      yield layer.name, bits, layer.weight_bits if layer.quantized else KERNEL_BITS, quantized
    yield layer.name, FULL_PRECISION_BITS, FULL_PRECISION_BITS, full


def _measured_bits(layer: LayerCost) -> list[int]:
  return sorted({bits for bits in layer.candidate_bits if bits <= KERNEL_BITS} | {KERNEL_BITS})


def _modules(module: nn.Module, image_shape):
  """Returns {path: (layer, input shape of one image)} of the quantised layers; nothing is computed."""
  found = {}

  def record(call, args, kwargs, context):
    layer, y = context.module, call(*args, **kwargs)
    if isinstance(layer, QuantLayer) and context.method_name == "__call__":
      found["/".join(layer.path)] = layer.clone(parent=None), (kwargs["x"] if "x" in kwargs else args[0]).shape
    return y

  with nn.intercept_methods(record):
    jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False),
                   jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
  return found


def time_of(layer: QuantLayer, shape: tuple[int, ...], kernel: str, runs: int, threads: int) -> float:
  """Returns the median time of a layer in milliseconds.

  Args:
    layer: QuantConv or QuantDense.
    shape: of its input: [1, H, W, C], or [1, ..., C] for a dense layer.
    kernel: "8 bits" or "float32".
    runs: that the median is of.
    threads: of ONNX Runtime.
  """
  try:
    import onnxruntime  # An optional dependency, and onnx with it.
  except ImportError as error:
    raise UserError("measure_costs needs onnx and onnxruntime: pip install 'metamix_jax[export]'.") from error
  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
  model, inputs = _model(layer, shape, kernel)
  session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
  seconds = []
  for number in range(_WARM_UP_RUNS + runs):
    start = time.perf_counter()
    session.run(None, inputs)
    if number >= _WARM_UP_RUNS:
      seconds.append(time.perf_counter() - start)
  return 1000 * statistics.median(seconds)


def _model(layer, shape, kernel):
  """Returns an ONNX model of one layer, and its input by name: random values."""
  import onnx
  from onnx import TensorProto, helper, numpy_helper

  rng, quantized = np.random.default_rng(0), kernel == "8 bits"
  if isinstance(layer, QuantConv):
    window, (_, height, width, channels) = window_of_layer(layer, shape), shape
    taps = layer.kernel_size if isinstance(layer.kernel_size, tuple) else (layer.kernel_size,) * 2
    input_shape = (1, channels, height, width)
    weight_shape = (layer.features, channels // layer.feature_group_count, *taps)
    (top, bottom), (left, right) = window.padding
    operator, attributes = "Conv", {
        "strides": list(window.strides), "pads": [top, left, bottom, right], "dilations": list(window.dilation),
        "group": layer.feature_group_count}
  elif isinstance(layer, QuantDense):
    input_shape, weight_shape, operator, attributes = shape, (shape[-1], layer.features), "MatMul", {}
  else:
    raise UserError(f"a {type(layer).__name__} cannot be measured; allowed are QuantConv and QuantDense.")
  arrays = {"w": rng.integers(-7, 8, weight_shape).astype(np.int8 if quantized else np.float32)}
  if quantized:
    arrays |= {"scale": np.float32(0.1), "x_zero": np.uint8(0), "w_zero": np.int8(0)}
    names = ["x", "scale", "x_zero", "w", "scale", "w_zero", "scale", "x_zero"]
    node = helper.make_node(f"QLinear{operator}", names, ["y"], **attributes)
  else:
    node = helper.make_node(operator, ["x", "w"], ["y"], **attributes)
  kind = TensorProto.UINT8 if quantized else TensorProto.FLOAT
  graph = helper.make_graph(
      [node], "layer", [helper.make_tensor_value_info("x", kind, input_shape)],
      [helper.make_tensor_value_info("y", kind, [None] * len(input_shape))],
      [numpy_helper.from_array(np.asarray(values), name) for name, values in arrays.items()])
  model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
  onnx.checker.check_model(model)
  return model, {"x": rng.integers(0, 16, input_shape).astype(np.uint8 if quantized else np.float32)}


if __name__ == "__main__":
  flags.mark_flags_as_required(["config", "csv"])
  app.run(main, flags_parser=flags_parser("measure_costs"))
