"""The spellings of images, quantisers and quantised layers in ONNX; onnx_files.py says what each is for."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from onnx import TensorProto

from metamix_jax.export.evaluator import Node
from metamix_jax.export.onnx_builder import CHANNELS_SECOND, NATURAL, Builder

IMAGE = "image"
# What is added to signed codes, because ONNX Runtime's integer operations read unsigned ones.
ZERO_POINT = 128
# Kernels of CPUs without VNNI add two products of an unsigned and a signed byte in 16 bits: up to this weight they fit.
LARGEST_SIGNED_WEIGHT = 64
QONNX_DOMAIN = "qonnx.custom_op.general"


class Spelling(NamedTuple):
  """Holds how a model writes what is quantised.

  Attributes:
    operations: {operation of the program: (builder, node) -> None}.
    exact: whether the model equals the NumPy evaluator bit for bit.
    image_name: its input.
    image_layout: of the input.
    image_type: of the input.
    batch: number of images; None: any.
    opsets: (domain, version) of what it uses.
    ir_version: of ONNX's files.
  """

  operations: Mapping[str, Callable[[Builder, Node], None]]
  exact: bool
  image_name: str
  image_layout: str
  image_type: int
  batch: int | None
  opsets: tuple[tuple[str, int], ...]
  ir_version: int


def codes_of_output(node: Node, values: np.ndarray) -> np.ndarray:
  """Returns the codes [N, ..., C], int16, of a quantiser from an output of a model with codes."""
  values = values.transpose(0, 2, 3, 1) if values.ndim == 4 else values
  return values.astype(np.int16) - zero_point(node)


def zero_point(node: Node) -> int:
  """Returns what is added to the codes of a quantiser to make them unsigned."""
  return ZERO_POINT if node["lowest"] < 0 else 0


def _table(builder: Builder, node: Node, table: np.ndarray) -> None:
  """Looks the pixels up in a table [C, 256]."""
  layout = builder.layout(node["name"])
  pixels = builder.add("Cast", [builder.value("image", layout)], to=TensorProto.INT32)
  channels = len(table)
  if channels > 1:
    starts = np.arange(channels, dtype=np.int32) * 256
    shape = (1, channels, 1, 1) if layout == CHANNELS_SECOND else (channels,)
    pixels = builder.add("Add", [pixels, builder.array("channel_starts", starts.reshape(shape))])
  builder.define(node, builder.add("Gather", [builder.array(node["table"], table.reshape(-1)), pixels]), layout)


def _pixels(builder: Builder, node: Node) -> None:
  _table(builder, node, builder.program.arrays[node["table"]])


def _integer_lookup(builder: Builder, node: Node) -> None:
  _table(builder, node, (builder.program.arrays[node["table"]] + zero_point(node)).astype(np.uint8))
  _register_codes(builder, node)


def _quantized(builder: Builder, node: Node) -> str:
  """Returns codes plus zero point, uint8: QuantizeLinear divides, rounds half to even and saturates, Clip narrows."""
  (x,), layout = builder.aligned(node)
  if node["shift"]:
    x = builder.add("Add", [x, builder.scalar(node["shift"])])
  zero = zero_point(node)
  codes = builder.add("QuantizeLinear", [
      x, builder.scalar(node["step_size"]), builder.scalar(zero, np.uint8)])
  if (node["lowest"] + zero, node["highest"] + zero) != (0, 255):
    codes = builder.add("Clip", [
        codes, *(builder.scalar(node[end] + zero, np.uint8) for end in ("lowest", "highest"))])
  builder.define(node, codes, layout)
  return codes


def _integer_quantize(builder: Builder, node: Node) -> None:
  _quantized(builder, node)
  _register_codes(builder, node)


def _register_codes(builder: Builder, node: Node) -> None:
  layout = builder.layout(node["name"])
  shape = node["shape"]
  if layout == CHANNELS_SECOND:
    shape = [shape[2], *shape[:2]]
  builder.output_codes(builder.value(node["name"], layout), shape)


def _window(node: Node) -> dict[str, Any]:
  (top, bottom), (left, right) = node["padding"]
  return {"kernel_shape": node["kernel_shape"][:2], "strides": node["strides"], "pads": [top, left, bottom, right],
          "dilations": node["dilation"], "group": node["groups"]}


def _kernel(builder: Builder, node: Node) -> np.ndarray:
  """Returns the weight codes in ONNX's order: [out, in, k_h, k_w], or [in, out]."""
  codes = builder.program.arrays[node["kernel"]]
  return codes.transpose(3, 2, 0, 1) if node["op"] == "conv" else codes


def _quantizer_of(builder: Builder, node: Node) -> Node:
  return next(other for other in builder.program.quantizers if other["layer"] == node["layer"])


def _integer_layer(builder: Builder, node: Node) -> None:
  """Adds ConvInteger or MatMulInteger, then (S + offset) / divisor in float32."""
  layout = CHANNELS_SECOND if node["op"] == "conv" else NATURAL
  codes, kernel = builder.value(node["inputs"][0], layout), _kernel(builder, node)
  zero_points = [builder.scalar(zero_point(_quantizer_of(builder, node)), np.uint8)]
  if node["weight_bits"] <= 4:
    weights = builder.add("Cast", [builder.packed(node["kernel"], kernel)], to=TensorProto.INT8)
  elif np.abs(kernel.astype(np.int16)).max() <= LARGEST_SIGNED_WEIGHT:
    weights = builder.array(node["kernel"], kernel)
  else:
    weights = builder.array(node["kernel"], (kernel.astype(np.int16) + ZERO_POINT).astype(np.uint8))
    zero_points.append(builder.scalar(ZERO_POINT, np.uint8))
  if node["op"] == "conv":
    sums = builder.add("ConvInteger", [codes, weights, *zero_points], **_window(node))
  else:
    sums = builder.add("MatMulInteger", [codes, weights, *zero_points])
  sums = builder.add("Cast", [sums], to=TensorProto.FLOAT)
  offset = builder.per_channel(node["offset"], layout)
  if "rows" in node:
    for axis, field in ((2, "rows"), (3, "columns")):
      offset = builder.add("Gather", [offset, builder.integers(node[field])], axis=axis)
  z = builder.add("Div", [builder.add("Add", [sums, offset]), builder.per_channel(node["divisor"], layout)])
  builder.define(node, z, layout)


def _scales(builder: Builder, node: Node) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns what a layer is in real numbers: weight codes, their step sizes [features], all positive, and the bias.

  The step sizes hold the batch norm; where its scale is negative, the codes have the other sign. The bias is
  [features], or [rows, columns, features] by class of positions.
  """
  arrays = builder.program.arrays
  multiplier = 1 / arrays[node["divisor"]].astype(np.float64)
  step_sizes = np.abs(multiplier) / _quantizer_of(builder, node)["step_size"]
  codes = np.where(multiplier < 0, -arrays[node["kernel"]], arrays[node["kernel"]])
  bias = arrays[node["offset"]] * multiplier
  return codes, step_sizes.astype(np.float32), bias.astype(np.float32)


def _float_layer(builder: Builder, node: Node, x: str, weights: str, bias: np.ndarray) -> None:
  """Adds Conv or MatMul of dequantised values, and the bias behind it."""
  # As an input of Conv, or as an Add that it fuses with MatMul, ONNX Runtime would round the bias to multiples of the
  # product of both step sizes.
  if node["op"] == "dense":
    y = builder.add("MatMul", [x, weights])
    builder.define(node, builder.add("Sub", [y, builder.array(f"{node['layer']}/negative_bias", -bias)]), NATURAL)
    return
  y = builder.add("Conv", [x, weights], **_window(node))
  table = bias.reshape(*(1,) * (3 - bias.ndim), *bias.shape).transpose(2, 0, 1)[None]
  addend = builder.array(f"{node['layer']}/bias", table)
  if "rows" in node:
    for axis, field in ((2, "rows"), (3, "columns")):
      addend = builder.add("Gather", [addend, builder.integers(node[field])], axis=axis)
  builder.define(node, builder.add("Add", [y, addend]), CHANNELS_SECOND)


def _qcdq_layer(builder: Builder, node: Node) -> None:
  """Adds DequantizeLinear for input and weights, and a layer of floats."""
  quantizer = _quantizer_of(builder, node)
  layout = CHANNELS_SECOND if node["op"] == "conv" else NATURAL
  x = builder.add("DequantizeLinear", [
      builder.value(node["inputs"][0], layout), builder.scalar(quantizer["step_size"]),
      builder.scalar(zero_point(quantizer), np.uint8)])
  codes, step_sizes, bias = _scales(builder, node)
  axis = 0 if node["op"] == "conv" else 1
  codes = codes.transpose(3, 2, 0, 1) if node["op"] == "conv" else codes
  store = builder.packed if node["weight_bits"] <= 4 else builder.array
  weights = builder.add("DequantizeLinear", [
      store(node["kernel"], codes), builder.array(f"{node['layer']}/step_sizes", step_sizes)], axis=axis)
  _float_layer(builder, node, x, weights, bias)


def _quant(builder: Builder, x: str, scale: str, bits: int, signed: bool) -> str:
  """Adds QONNX's Quant; narrow: signed codes go from -p to p."""
  return builder.add(
      "Quant", [x, scale, builder.scalar(0.0), builder.scalar(float(bits))], domain=QONNX_DOMAIN, signed=int(signed),
      narrow=int(signed), rounding_mode="ROUND")


def _qonnx_quantize(builder: Builder, node: Node) -> None:
  """Adds Quant, whose values are s * code; the first layer reads the normalised image itself."""
  (x,), layout = builder.aligned(node)
  if node["shift"]:
    x = builder.add("Add", [x, builder.scalar(node["shift"])])
  builder.define(node, _quant(builder, x, builder.scalar(node["step_size"]), node["bits"], node["lowest"] < 0), layout)


def _qonnx_layer(builder: Builder, node: Node) -> None:
  """Adds Quant for the weights, and a layer of floats."""
  layout = CHANNELS_SECOND if node["op"] == "conv" else NATURAL
  codes, step_sizes, bias = _scales(builder, node)
  values = codes * step_sizes
  if node["op"] == "conv":
    values, step_sizes = values.transpose(3, 2, 0, 1), step_sizes[:, None, None, None]
  weights = _quant(
      builder, builder.array(node["kernel"], values), builder.array(f"{node['layer']}/step_sizes", step_sizes),
      node["weight_bits"], True)
  _float_layer(builder, node, builder.value(node["inputs"][0], layout), weights, bias)


def _float32_layer(builder: Builder, node: Node) -> None:
  """Adds Conv or MatMul of an input that no quantiser has touched, with the weights' own grid."""
  codes, step_sizes, bias = _scales(builder, node)
  quantizer, weights = _quantizer_of(builder, node), codes * step_sizes
  if "rows" in node:
    bias = bias[node["rows"][0], node["columns"][0]]
  if quantizer["shift"]:  # The bias has it subtracted, over the taps that lie inside of the image at this position.
    inside = weights
    for axis, taps in enumerate(weights.shape[:2] if node["op"] == "conv" else ()):
      places = np.arange(taps) * node["dilation"][axis] - node["padding"][axis][0]
      inside = inside.compress((places >= 0) & (places < quantizer["shape"][axis]), axis)
    bias = bias + np.float32(quantizer["shift"]) * inside.sum(tuple(range(inside.ndim - 1)))
  layout = CHANNELS_SECOND if node["op"] == "conv" else NATURAL
  weights = weights.transpose(3, 2, 0, 1) if node["op"] == "conv" else weights
  inputs = [builder.value(node["inputs"][0], layout), builder.array(node["kernel"], weights)]
  addend = builder.array(f"{node['layer']}/bias", bias)
  y = builder.add("Conv", [*inputs, addend], **_window(node)) if node["op"] == "conv" else (
      builder.add("Add", [builder.add("MatMul", inputs), addend]))
  builder.define(node, y, layout)


def _unquantized(builder: Builder, node: Node) -> None:
  """Defines codes as what they are made of."""
  (x,), layout = builder.aligned(node)
  builder.define(node, x, layout)


_OPSETS = (("", 21),)
SPELLINGS: dict[str, Spelling] = {
    "integer": Spelling(
        {"image": _pixels, "lookup": _integer_lookup, "quantize": _integer_quantize, "conv": _integer_layer,
         "dense": _integer_layer},
        True, IMAGE, NATURAL, TensorProto.UINT8, None, _OPSETS, 10),
    "qcdq": Spelling(
        {"image": _pixels, "lookup": _integer_lookup, "quantize": _integer_quantize, "conv": _qcdq_layer,
         "dense": _qcdq_layer},
        False, IMAGE, NATURAL, TensorProto.UINT8, None, _OPSETS, 10),
    "qonnx": Spelling(
        {"image": lambda builder, node: builder.define(node, IMAGE, CHANNELS_SECOND), "lookup": _qonnx_quantize,
         "quantize": _qonnx_quantize, "conv": _qonnx_layer, "dense": _qonnx_layer},
        False, IMAGE, CHANNELS_SECOND, TensorProto.FLOAT, 1, (*_OPSETS, (QONNX_DOMAIN, 1)), 10),
    # No export: what the others are compared with.
    "float32": Spelling(
        {"image": lambda builder, node: builder.define(node, IMAGE, CHANNELS_SECOND), "lookup": _unquantized,
         "quantize": _unquantized, "conv": _float32_layer, "dense": _float32_layer},
        False, IMAGE, CHANNELS_SECOND, TensorProto.FLOAT, None, _OPSETS, 10),
}
