"""From the jaxpr of a marked pass to the nodes of a program: about 25 operations, and a sentence for any other."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import math
from typing import Any

from jax.extend.core import Literal
import numpy as np

from metamix_jax.errors import UserError
from metamix_jax.export.evaluator import ELEMENTWISE
from metamix_jax.export.tracing import MarkedPass
from metamix_jax.nn.layers import QuantConv

# Operations that return their input; calls of another jaxpr; both as JAX names them.
IDENTITIES = ("copy", "copy_p", "optimization_barrier", "stop_gradient")
CALLS = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "checkpoint", "remat2")


@dataclasses.dataclass(frozen=True)
class Value:
  """Holds a value of the pass: a node of the program, or a constant.

  Attributes:
    name: of the node; None: a constant.
    array: of the constant.
    shape: as JAX has it, the batch included.
    held: the same without its broadcasts: an axis that is only repeated has the size 1. A constant scalar has ().
  """

  name: str | None
  array: np.ndarray | None
  shape: tuple[int, ...]
  held: tuple[int, ...]


def constant(array: Any) -> Value:
  """Returns a constant."""
  array = np.asarray(array)
  return Value(None, array, array.shape, array.shape)


def _plain(value: Any) -> Any:
  """Returns a value as JSON has it: lists for tuples, Python's integers for NumPy's."""
  if isinstance(value, (list, tuple)):
    return list(map(_plain, value))
  return int(value) if isinstance(value, np.integer) else value


class Lowering:
  """Collects the nodes of a program.

  Attributes:
    nodes: operations in order; those of quantised layers and batch norms have no arrays yet.
    arrays: constants by name.
  """

  def __init__(self, marked: MarkedPass):
    self._network, self._batch, self._modules = marked.network, marked.batch, marked.modules
    self.nodes: list[dict[str, Any]] = [
        {"name": "pixels", "op": "image", "inputs": ["image"], "shape": list(marked.jaxpr.in_avals[0].shape[1:])}]
    self.arrays: dict[str, np.ndarray] = {}
    shape = marked.jaxpr.in_avals[0].shape
    images = Value("pixels", None, shape, shape)
    logits, = self._run(marked.jaxpr.jaxpr, marked.jaxpr.consts, [images])
    if logits.name is None:
      raise UserError(f"network {self._network} returns logits that do not depend on the images.")
    self.logits = self._whole(logits).name

  def _run(self, jaxpr, consts, arguments):
    values = dict(zip(jaxpr.constvars, map(constant, consts), strict=True))
    values |= dict(zip(jaxpr.invars, arguments, strict=True))
    read = lambda atom: constant(atom.val) if isinstance(atom, Literal) else values[atom]
    for equation in jaxpr.eqns:
      outputs = self._equation(equation, [read(atom) for atom in equation.invars])
      values |= dict(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]

  def _equation(self, equation, inputs: list[Value]) -> Sequence[Value]:
    name, params = equation.primitive.name, equation.params
    shape = equation.outvars[0].aval.shape
    if name in CALLS:
      inner = params.get("jaxpr", params.get("call_jaxpr"))
      return self._run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), inputs)
    if name in IDENTITIES or name == "convert_element_type" and inputs[0].name and (
        equation.invars[0].aval.dtype == params["new_dtype"]):
      return inputs
    if name in ELEMENTWISE or name == "select_n":
      return [self._elementwise("select" if name == "select_n" else name, inputs, shape)]
    if name in ("integer_pow", "square") and params.get("y", 2) == 2:
      return [self._elementwise("mul", inputs * 2, shape)]
    if name == "clamp":
      lowest, x, highest = inputs
      return [self._elementwise("min", [self._elementwise("max", [x, lowest], shape), highest], shape)]
    if name == "broadcast_in_dim":
      return [self._broadcast(inputs[0], shape, params["broadcast_dimensions"])]
    handler = HANDLERS.get(name)
    if all(value.name is None and value.held == value.shape for value in inputs):
      if all(self._batch not in variable.aval.shape for variable in equation.outvars):
        outputs = equation.primitive.bind(*(value.array for value in inputs), **params)
        return [constant(y) for y in (outputs if equation.primitive.multiple_results else [outputs])]
    if handler is None or len(inputs) > 1 and name not in ("concatenate", "pad"):
      raise UserError(
          f"network {self._network} has the operation {name} outside of its quantised layers, which an export does not "
          f"know; allowed are QuantConv, QuantDense, batch norm, {', '.join(known_operations())}.")
    result = handler(self, params, shape, *inputs)
    return result if isinstance(result, list) else [result]

  def _elementwise(self, op, inputs, shape):
    held = ()
    for value in inputs:
      held = value.held if not held else held if not value.held else tuple(
          b if a == 1 else a for a, b in zip(held, value.held, strict=True))
    if all(value.name is None for value in inputs):
      arrays = [value.array for value in inputs]
      array = np.where(arrays[0], arrays[2], arrays[1]) if op == "select" else ELEMENTWISE[op](*arrays)
      return Value(None, np.asarray(array), shape, held)
    return self._add(op, [self._input(value) for value in inputs], shape, held)

  def _broadcast(self, x, shape, axes):
    held = tuple(x.held[axes.index(axis)] if axis in axes else 1 for axis in range(len(shape)))
    if x.name is None:
      return Value(None, x.array if not x.held else x.array.reshape(held), shape, held if x.held else ())
    if axes[:1] != (0,):
      self._refuse_batch("broadcast_in_dim")
    if held == x.held:
      return dataclasses.replace(x, shape=shape)
    return self._add("reshape", [x.name], shape, held)

  def _add(self, op, inputs, shape, held=None, **fields):
    held = shape if held is None else held
    if not held or held[0] != self._batch:
      self._refuse_batch(op)
    name = fields.pop("name", None) or f"{op}_{len(self.nodes)}"
    fields = {field: _plain(value) for field, value in fields.items()}
    self.nodes.append({"name": name, "op": op, "inputs": list(inputs), "shape": _plain(held[1:])} | fields)
    return Value(name, None, shape, held)

  def _input(self, value):
    """Returns the name of a node with a value."""
    if value.name is not None:
      return value.name
    if value.array.shape[:1] == (self._batch,):
      self._refuse_batch("a constant of the batch's size")
    array = value.array if value.array.dtype == bool else value.array.astype(np.float32)
    for node in self.nodes:
      if node["op"] == "constant" and np.array_equal(self.arrays[node["array"]], array):
        return node["name"]
    name = f"constant_{len(self.nodes)}"
    self.arrays[name] = array
    self.nodes.append({"name": name, "op": "constant", "inputs": [], "shape": list(array.shape), "array": name})
    return name

  def _whole(self, value):
    """Returns a value with its broadcasts carried out."""
    if value.name is None:
      self._refuse_batch("a constant of the batch's size")
    return value if value.held == value.shape else self._add("broadcast", [value.name], value.shape)

  def _refuse_batch(self, op):
    raise UserError(
        f"network {self._network} moves, mixes or makes images in a batch ({op}), which cannot be exported; allowed "
        "are operations that treat each image alone.")

  def _quantized_layer(self, params, shape, x):
    x, layer = self._whole(x), params["layer"]
    codes = self._add("quantize", [x.name], x.shape, name=f"{layer}/codes", layer=layer)
    op = "conv" if isinstance(self._modules[layer], QuantConv) else "dense"
    # With a slash, so that no layer takes the name of another operation or of the image.
    return self._add(op, [codes.name], shape, name=f"{layer}/output", layer=layer, input_shape=list(x.shape[1:]))

  def _batch_norm(self, params, shape, x):
    return self._add("affine", [self._whole(x).name], shape, name=f"{params['layer']}/output", layer=params["layer"])

  def _reshape(self, params, shape, x):
    del params
    return self._add("reshape", [self._whole(x).name], shape)

  def _transpose(self, params, shape, x):
    return self._add("transpose", [self._whole(x).name], shape, permutation=list(params["permutation"]))

  def _reduce_sum(self, params, shape, x):
    return self._reduce("sum", params, shape, x)

  def _reduce_max(self, params, shape, x):
    return self._reduce("reduce_max", params, shape, x)

  def _reduce(self, op, params, shape, x):
    if 0 in params["axes"]:
      self._refuse_batch(op)
    return self._add(op, [self._whole(x).name], shape, axes=list(params["axes"]))

  def _concatenate(self, params, shape, *inputs):
    return self._add("concatenate", [self._whole(x).name for x in inputs], shape, axis=params["dimension"])

  def _slice(self, params, shape, x):
    strides = params["strides"] or (1,) * len(shape)
    if params["start_indices"][0] != 0 or params["limit_indices"][0] != self._batch or strides[0] != 1:
      self._refuse_batch("slice")
    places = {"starts": params["start_indices"], "limits": params["limit_indices"], "strides": strides}
    return self._add(
        "slice", [self._whole(x).name], shape, **{name: list(values[1:]) for name, values in places.items()})

  def _split(self, params, shape, x):
    del shape
    axis, start, parts = params["axis"], 0, []
    for size in params["sizes"]:
      limits = [(start, start + size) if a == axis else (0, whole) for a, whole in enumerate(x.shape)]
      part = {"start_indices": [low for low, _ in limits], "limit_indices": [high for _, high in limits],
              "strides": None}
      parts.append(self._slice(part, tuple(high - low for low, high in limits), x))
      start += size
    return parts

  def _pad(self, params, shape, x, value):
    if params["padding_config"][0] != (0, 0, 0) or value.name is not None or any(
        low < 0 or high < 0 or interior for low, high, interior in params["padding_config"]):
      self._refuse_batch("pad")
    padding = [[low, high] for low, high, _ in params["padding_config"][1:]]
    return self._add("pad", [self._whole(x).name], shape, padding=padding, value=float(value.array))

  def _reduce_window_max(self, params, shape, x):
    window, strides, padding = self._window("reduce_window_max", params)
    return self._add(
        "max_pool", [self._whole(x).name], shape, window=window, strides=strides, padding=padding)

  def _reduce_window_sum(self, params, shape, x):
    """Adds the taps of a window one after the other, rows first."""
    window, strides, padding = self._window("reduce_window_sum", params)
    sizes = [size + sum(pads) for size, pads in zip(x.shape[1:3], padding, strict=True)]
    x = self._whole(x)
    if any(map(sum, padding)):
      x = self._add("pad", [x.name], (x.shape[0], *sizes, x.shape[3]), padding=[*padding, [0, 0]], value=0.0)
    parts = []
    for tap in range(math.prod(window)):
      starts = [tap // window[1], tap % window[1]]
      limits = [start + (out - 1) * step + 1 for start, out, step in zip(starts, shape[1:3], strides, strict=True)]
      parts.append(self._add(
          "slice", [x.name], shape, starts=[*starts, 0], limits=[*limits, shape[3]], strides=[*strides, 1]))
    return functools.reduce(lambda total, taps: self._elementwise("add", [total, taps], shape), parts)

  def _window(self, name, params):
    window, strides = params["window_dimensions"], params["window_strides"]
    padding, plain = params["padding"], (1,) * len(window)
    if len(window) != 4 or {window[0], window[3], strides[0], strides[3]} != {1} or (
        (params["base_dilation"], params["window_dilation"]) != (plain, plain)) or any(
            map(any, (padding[0], padding[3]))):
      raise UserError(
          f"network {self._network} has a {name} that an export does not know (window {window}, strides {strides}); "
          "allowed are windows over the rows and columns of [N, H, W, C], without dilation.")
    return list(window[1:3]), list(strides[1:3]), [list(pads) for pads in padding[1:3]]


# What lowers each operation that is not elementwise: (lowering, params, shape, *inputs) -> Value or list of them.
HANDLERS: dict[str, Callable[..., Value | list[Value]]] = {
    "quantized_layer": Lowering._quantized_layer, "batch_norm": Lowering._batch_norm, "reshape": Lowering._reshape,
    "squeeze": Lowering._reshape, "transpose": Lowering._transpose, "reduce_sum": Lowering._reduce_sum,
    "reduce_max": Lowering._reduce_max, "concatenate": Lowering._concatenate, "slice": Lowering._slice,
    "split": Lowering._split, "pad": Lowering._pad, "reduce_window_max": Lowering._reduce_window_max,
    "reduce_window_sum": Lowering._reduce_window_sum,
}


def known_operations() -> list[str]:
  """Returns the names of the operations between layers that can be exported, as JAX names them."""
  return sorted({*ELEMENTWISE, *HANDLERS, "select_n", "square", "clamp", "broadcast_in_dim"}
                - {"quantized_layer", "batch_norm"})
