"""Collects the nodes of an ONNX graph, and keeps each value in the order of axes that its readers want."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from metamix_jax.export.evaluator import Node, Program, pack

# The program's order of axes, [N, H, W, C] for images; ONNX's convolutions and poolings want the channels second.
NATURAL, CHANNELS_SECOND = "natural", "channels_second"
_TO_CHANNELS_SECOND, _TO_NATURAL = (0, 3, 1, 2), (0, 2, 3, 1)
BATCH = "batch"


def moved_axis(axis: int, layout: str) -> int:
  """Returns where an axis of the program is in a layout."""
  return _TO_CHANNELS_SECOND.index(axis) if layout == CHANNELS_SECOND else axis


class Builder:
  """Builds one graph.

  Attributes:
    program: the program.
    exact: whether sums keep the program's order.
  """

  def __init__(self, program: Program, layers: Any):
    self.program, self.exact = program, layers.exact
    self._layers = layers
    self._shapes = {node["name"]: node["shape"] for node in program.nodes} | {"image": list(program.image_shape)}
    self._constants = {node["name"]: program.arrays[node["array"]] for node in program.nodes if "array" in node}
    self._names: dict[tuple[str, str], str] = {}
    self._nodes: list[onnx.NodeProto] = []
    self._initializers: dict[str, onnx.TensorProto] = {}
    self._codes: list[tuple[str, list[int]]] = []
    self._names["image", layers.image_layout] = layers.image_name

  def shape(self, name: str) -> list[int]:
    """Returns the shape of a value of the program, without the batch."""
    return self._shapes[name]

  def layout(self, name: str) -> str:
    """Returns the layout that a value is best in."""
    return CHANNELS_SECOND if len(self._shapes[name]) == 3 else NATURAL

  def add(self, kind: str, inputs: Sequence[str], domain: str = "", **attributes: Any) -> str:
    """Adds an operation with one output, and returns the output's name."""
    output = f"{kind}_{len(self._nodes)}"
    self._nodes.append(helper.make_node(kind, list(inputs), [output], name=output, domain=domain, **attributes))
    return output

  def define(self, node: Node, name: str, layout: str) -> None:
    """Says which ONNX value a node of the program is, in a layout."""
    self._names[node["name"], layout] = name

  def output_codes(self, name: str, shape: Sequence[int]) -> None:
    """Makes a value [N, ...] an output of a model with codes."""
    self._codes.append((name, list(shape)))

  def value(self, name: str, layout: str) -> str:
    """Returns the ONNX value of a node in a layout; transposes it where that is needed."""
    if (name, layout) not in self._names:
      other = NATURAL if layout == CHANNELS_SECOND else CHANNELS_SECOND
      order = _TO_CHANNELS_SECOND if layout == CHANNELS_SECOND else _TO_NATURAL
      self._names[name, layout] = self.add("Transpose", [self._names[name, other]], perm=order)
    return self._names[name, layout]

  def aligned(self, node: Node) -> tuple[list[str], str]:
    """Returns the inputs of an operation in the layout of its output, and this layout."""
    layout = self.layout(node["name"])
    return [self._constant(name, layout) if name in self._constants else self.value(name, layout)
            for name in node["inputs"]], layout

  def is_zero(self, name: str) -> bool:
    """Tells whether a value of the program is the constant 0."""
    return name in self._constants and not np.any(self._constants[name])

  def per_channel(self, name: str, layout: str) -> str:
    """Returns an array [C] or [H, W, C] of the program, in the shape that broadcasts over a value of a layout."""
    array = self.program.arrays[name]
    if layout == CHANNELS_SECOND:
      array = array.reshape(*(1,) * (3 - array.ndim), *array.shape).transpose(2, 0, 1)[None]
    return self.array(name, array)

  def _constant(self, name, layout):
    array = self._constants[name]
    if layout == CHANNELS_SECOND and array.ndim == 4:
      return self.array(f"{name}_{layout}", array.transpose(_TO_CHANNELS_SECOND))
    return self.array(name, array)

  def array(self, name: str, array: np.ndarray) -> str:
    """Returns the name of an initialiser."""
    # A scalar stays one: np.ascontiguousarray would make it a vector, from which other tools infer other shapes.
    array = array if array.ndim == 0 else np.ascontiguousarray(array)
    self._initializers.setdefault(name, onnx.numpy_helper.from_array(array, name))
    return name

  def packed(self, name: str, codes: np.ndarray) -> str:
    """Returns the name of an INT4 initialiser, two codes in a byte, the first one in the low half."""
    self._initializers.setdefault(
        name, helper.make_tensor(name, TensorProto.INT4, codes.shape, pack(codes, 4).tobytes(), raw=True))
    return name

  def scalar(self, value: float, dtype: Any = np.float32) -> str:
    """Returns the name of a scalar initialiser."""
    array = np.asarray(value, dtype)
    return self.array(f"scalar_{array.dtype}_{array}", array)

  def integers(self, values: Sequence[int]) -> str:
    """Returns the name of an int64 initialiser [n]."""
    return self.array("integers_" + "_".join(map(str, values)), np.asarray(values, np.int64))

  def rename(self, name: str, new: str) -> None:
    """Gives the output of an operation another name."""
    for node in self._nodes:
      for names in (node.input, node.output):
        for index, old in enumerate(names):
          if old == name:
            names[index] = new

  def model(self, output: str, shape: Sequence[int], with_codes: bool) -> onnx.ModelProto:
    """Returns the model of everything that was added.

    Args:
      output: its first output [N, ...], float32.
      shape: of this output, without the batch.
      with_codes: whether the codes are outputs too.
    """
    layers = self._layers
    batch = BATCH if layers.batch is None else layers.batch
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, *shape])]
    if with_codes:
      outputs += [helper.make_tensor_value_info(name, TensorProto.UINT8, [batch, *sizes])
                  for name, sizes in self._codes]
    image_shape = list(self.program.image_shape)
    if layers.image_layout == CHANNELS_SECOND:
      image_shape = [image_shape[2], *image_shape[:2]]
    image = helper.make_tensor_value_info(layers.image_name, layers.image_type, [batch, *image_shape])
    graph = helper.make_graph(
        self._nodes, "metamix_jax", [image], outputs, list(self._initializers.values()))
    return helper.make_model(
        graph, producer_name="metamix_jax", ir_version=layers.ir_version,
        opset_imports=[helper.make_opsetid(*opset) for opset in layers.opsets])
