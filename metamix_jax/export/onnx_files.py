"""A program as an ONNX model (opset 21), in three spellings of a quantised layer: integer, qcdq and qonnx.

  integer  QuantizeLinear, Clip, ConvInteger, Cast, Add, Div: exact sums; equals the NumPy evaluator bit for bit
  qcdq     QuantizeLinear, Clip, DequantizeLinear, Conv: what compilers and other runtimes take
  qonnx    Quant, Conv: bit-widths as operands, for FINN and hls4ml; begins at the normalised image, batch 1

"float32" is the network without quantisers of its inputs, to compare sizes and times with; it reads normalised images.
Weights of at most 4 bits are INT4 in the first two, two in a byte. Between layers all three are the same operations,
with channels behind the batch, as ONNX's convolutions want them.
"""

from collections.abc import Callable, Mapping
import json
from typing import Any

import numpy as np
import onnx
import onnxruntime

from metamix_jax.export import onnx_layers
from metamix_jax.export.evaluator import Node, Program
from metamix_jax.export.onnx_builder import NATURAL, Builder, moved_axis

_BINARY = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min", "gt": "Greater",
           "ge": "GreaterOrEqual", "lt": "Less", "le": "LessOrEqual", "eq": "Equal"}


def make_model(program: Program, spelling: str, with_codes: bool = False) -> onnx.ModelProto:
  """Returns the ONNX model of a program.

  Args:
    program: the program.
    spelling: "integer", "qcdq", "qonnx" or "float32".
    with_codes: whether the codes of every quantised layer's input are outputs too ("integer" alone).
  """
  layers = onnx_layers.SPELLINGS[spelling]
  builder = Builder(program, layers)
  for node in program.nodes:
    if node["op"] in layers.operations:
      layers.operations[node["op"]](builder, node)
    else:
      _OPERATIONS[node["op"]](builder, node)
  builder.rename(builder.value(program.nodes[-1]["name"], NATURAL), "logits")
  model = builder.model("logits", program.nodes[-1]["shape"], with_codes)
  onnx.checker.check_model(model, full_check=spelling != "qonnx")
  return model


def with_facts(model: onnx.ModelProto, facts: Mapping[str, Any]) -> onnx.ModelProto:
  """Returns a model with facts as JSON in its metadata."""
  copy = onnx.ModelProto()
  copy.CopyFrom(model)
  onnx.helper.set_model_props(copy, {name: json.dumps(value) for name, value in facts.items()})
  return copy


def session(
    model: onnx.ModelProto, threads: int = 0, optimize: bool = True
) -> onnxruntime.InferenceSession:
  """Returns a session of ONNX Runtime on the CPU; `threads` 0: its own choice."""
  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = threads
  level = onnxruntime.GraphOptimizationLevel
  options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
  return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def integer_run(
    program: Program, model: onnx.ModelProto, threads: int = 0, optimize: bool = True
) -> Callable[[np.ndarray], tuple[np.ndarray, dict[str, np.ndarray]]]:
  """Returns (images) -> logits of a model in the spelling "integer", and {layer: codes} of the same with outputs."""
  logits, codes = session(model, threads, optimize), session(
      make_model(program, "integer", with_codes=True), threads, optimize)
  names = [output.name for output in codes.get_outputs()][1:]

  def run(images):
    made = codes.run(names, {"image": images})
    return logits.run(["logits"], {"image": images})[0], {
        node["layer"]: onnx_layers.codes_of_output(node, np.asarray(values))
        for node, values in zip(program.quantizers, made, strict=True)}

  return run


def _elementwise(builder: Builder, node: Node) -> None:
  if node["op"] == "max" and builder.is_zero(node["inputs"][1]):
    _unary("Relu")(builder, {**node, "inputs": node["inputs"][:1]})
    return
  inputs, layout = builder.aligned(node)
  if node["op"] == "ne":
    equal = builder.add("Equal", inputs)
    builder.define(node, builder.add("Not", [equal]), layout)
    return
  builder.define(node, builder.add(_BINARY[node["op"]], inputs), layout)


def _select(builder: Builder, node: Node) -> None:
  (which, if_false, if_true), layout = builder.aligned(node)
  builder.define(node, builder.add("Where", [which, if_true, if_false]), layout)


def _unary(kind: str) -> Callable[[Builder, Node], None]:
  def build(builder, node):
    inputs, layout = builder.aligned(node)
    builder.define(node, builder.add(kind, inputs), layout)
  return build


def _affine(builder: Builder, node: Node) -> None:
  (x,), layout = builder.aligned(node)
  offset, divisor = (builder.per_channel(node[field], layout) for field in ("offset", "divisor"))
  builder.define(node, builder.add("Div", [builder.add("Add", [x, offset]), divisor]), layout)


def _sum(builder: Builder, node: Node) -> None:
  """Sums in the order of evaluator.tree_sum, or by ReduceSum where nothing is promised."""
  shape, axes = builder.shape(node["inputs"][0]), node["axes"]
  layout = builder.layout(node["inputs"][0])
  x = builder.value(node["inputs"][0], layout)
  if not builder.exact:
    _reduce(builder, node, "ReduceSum")
    return
  rest = [axis for axis in range(len(shape) + 1) if axis not in axes]
  order = [moved_axis(axis, layout) for axis in (*rest, *axes)]
  if order != sorted(order):
    x = builder.add("Transpose", [x], perm=order)
  count = int(np.prod([shape[axis - 1] for axis in axes]))
  whole = 1 << (count - 1).bit_length()
  kept = [shape[axis - 1] for axis in rest[1:]]
  x = builder.add("Reshape", [x, builder.integers([0, *kept, count])])
  last = len(kept) + 1
  if whole > count:
    x = builder.add("Pad", [x, builder.integers([0] * (2 * last + 1) + [whole - count]), builder.scalar(0.0)])
  while whole > 1:
    halves = [builder.add("Slice", [x, *map(builder.integers, ([start], [start + whole // 2], [last]))])
              for start in (0, whole // 2)]
    x, whole = builder.add("Add", halves), whole // 2
  builder.define(node, builder.add("Reshape", [x, builder.integers([0, *node["shape"]])]), NATURAL)


def _reduce(builder: Builder, node: Node, kind: str) -> None:
  """Adds a reduction over axes, and brings the axes that are left into the program's order."""
  layout = builder.layout(node["inputs"][0])
  axes = [moved_axis(axis, layout) for axis in node["axes"]]
  y = builder.add(kind, [builder.value(node["inputs"][0], layout), builder.integers(axes)], keepdims=0)
  kept = [moved_axis(axis, layout) for axis in range(len(builder.shape(node["inputs"][0])) + 1)
          if axis not in node["axes"]]
  if kept != sorted(kept):
    y = builder.add("Transpose", [y], perm=list(np.argsort(np.argsort(kept))))
  builder.define(node, y, NATURAL)


def _max_pool(builder: Builder, node: Node) -> None:
  (top, bottom), (left, right) = node["padding"]
  x, layout = builder.aligned(node)
  builder.define(node, builder.add(
      "MaxPool", x, kernel_shape=node["window"], strides=node["strides"], pads=[top, left, bottom, right]), layout)


def _reshape(builder: Builder, node: Node) -> None:
  before, after = builder.shape(node["inputs"][0]), node["shape"]
  # With one row and one column both layouts have the same order.
  layout = builder.layout(node["inputs"][0]) if list(before[:2]) == [1, 1] else NATURAL
  x = builder.value(node["inputs"][0], layout)
  if len(after) == 3 and after[:2] == [1, 1]:
    layout, after = builder.layout(node["name"]), [after[2], 1, 1]
  else:
    layout = NATURAL
  builder.define(node, builder.add("Reshape", [x, builder.integers([0, *after])]), layout)


def _transpose(builder: Builder, node: Node) -> None:
  x = builder.value(node["inputs"][0], NATURAL)
  builder.define(node, builder.add("Transpose", [x], perm=node["permutation"]), NATURAL)


def _broadcast(builder: Builder, node: Node) -> None:
  layout = builder.layout(node["name"])
  shape = [1] * (len(node["shape"]) + 1)
  for axis, size in enumerate(node["shape"], 1):
    shape[moved_axis(axis, layout)] = size
  x = builder.value(node["inputs"][0], layout)
  builder.define(node, builder.add("Expand", [x, builder.integers(shape)]), layout)


def _concatenate(builder: Builder, node: Node) -> None:
  inputs, layout = builder.aligned(node)
  builder.define(node, builder.add("Concat", inputs, axis=moved_axis(node["axis"], layout)), layout)


def _slice(builder: Builder, node: Node) -> None:
  (x,), layout = builder.aligned(node)
  axes = [moved_axis(axis, layout) for axis in range(1, len(node["shape"]) + 1)]
  places = map(builder.integers, (node["starts"], node["limits"], axes, node["strides"]))
  builder.define(node, builder.add("Slice", [x, *places]), layout)


def _pad(builder: Builder, node: Node) -> None:
  (x,), layout = builder.aligned(node)
  pads = np.zeros((2, len(node["shape"]) + 1), np.int64)
  for axis, sides in enumerate(node["padding"], 1):
    pads[:, moved_axis(axis, layout)] = sides
  builder.define(node, builder.add(
      "Pad", [x, builder.integers(pads.reshape(-1).tolist()), builder.scalar(node["value"])]), layout)


# As evaluator.OPERATIONS, but for those that a spelling defines: image, lookup, quantize, conv, dense.
_OPERATIONS: dict[str, Callable[[Builder, Node], None]] = dict.fromkeys([*_BINARY, "ne"], _elementwise) | {
    "select": _select, "neg": _unary("Neg"), "abs": _unary("Abs"), "affine": _affine, "sum": _sum,
    "reduce_max": lambda builder, node: _reduce(builder, node, "ReduceMax"),
    "max_pool": _max_pool, "reshape": _reshape, "transpose": _transpose,
    "broadcast": _broadcast, "concatenate": _concatenate, "slice": _slice, "pad": _pad,
    "constant": lambda builder, node: None,  # Defined where it is used.
}
