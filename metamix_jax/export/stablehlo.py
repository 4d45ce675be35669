"""A program as a JAX function that equals the NumPy evaluator bit for bit on a CPU, and as a file of jax.export.

XLA may fuse a product with the sum behind it into one rounding, turn a division by a constant into a product with its
reciprocal, and put two constants together. None of these can happen to a constant that depends on the data, so every
constant passes through `_opaque`, and every product is divided by such a 1. It also makes one division of two in a row;
`_divide` prevents that.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import Array, lax
import jax.numpy as jnp
import numpy as np

from metamix_jax.export.evaluator import FLOAT32_INTEGERS, Node, Program
from metamix_jax.nn.convolution import NATIVE, SHIFTED, Window, convolve

# Sums of codes that float32 does not hold are made of two: codes // 16 and codes % 16.
DIGIT = 16
LARGEST = np.finfo(np.float32).max
PLATFORMS = ("cpu", "cuda", "tpu")


def interpret(
    program: Program, images: Array, codes: Mapping[str, Array] | None = None, given: Array | bool = True
) -> tuple[Array, dict[str, Array], dict[str, Array]]:
  """Evaluates a program as evaluator.evaluate does, in operations of JAX.

  Args:
    program: the program.
    images: uint8 [N, H, W, C].
    codes: {layer: codes}, integers: what these layers read instead of the codes that the program makes.
    given: whether they do, bool scalar.

  Returns:
    Logits [N, classes], float32; {layer: codes}, int16; {layer: what was rounded to codes}, float32.
  """
  values: dict[str, Any] = {"image": images}
  made, steps = {}, {}
  for node in program.nodes:
    operation = _OPERATIONS[node["op"]]
    y = operation(node, program.arrays, *(values[name] for name in node["inputs"]))
    if node["op"] in ("quantize", "lookup"):
      layer = node["layer"]
      if node["op"] == "quantize":
        y, steps[layer] = y
      made[layer] = y.astype(jnp.int16)
      if codes is not None and layer in codes:
        y = jnp.where(given, codes[layer].astype(jnp.float32), y)
    values[node["name"]] = y
  return values[program.nodes[-1]["name"]], made, steps


def serialize(program: Program, with_codes: bool = False) -> bytes:
  """Returns the file of jax.export: uint8 images [N, H, W, C] to logits, any N, for CPU, CUDA and TPU.

  Args:
    program: the program.
    with_codes: whether the function returns (logits, {layer: codes}) instead, to compare codes.
  """
  def run(images):
    logits, codes, _ = interpret(program, images)
    return (logits, codes) if with_codes else logits

  batch, = jax.export.symbolic_shape("batch")
  images = jax.ShapeDtypeStruct((batch, *program.image_shape), jnp.uint8)
  return bytes(jax.export.export(jax.jit(run), platforms=PLATFORMS)(images).serialize())


def load(file: bytes) -> Callable[[Any], Any]:
  """Returns the function of a file of `serialize`."""
  return jax.jit(jax.export.deserialize(bytearray(file)).call)


def _opaque(constant: Any, like: Array) -> Array:
  """Returns a constant as a value that depends on the data, as far as XLA can see."""
  return jnp.where(jnp.isnan(like), like, constant)


def _is_constant(value) -> bool:
  return isinstance(value, np.ndarray)


def _binary(function: Callable[[Any, Any], Array]) -> Callable[..., Array]:
  def operation(node, arrays, a, b):
    del node, arrays
    a, b = (_opaque(a, b) if _is_constant(a) else a), (_opaque(b, a) if _is_constant(b) else b)
    return function(a, b)
  return operation


def _multiply(a, b):
  product = a * b
  return product / _opaque(np.float32(1), product)


def _divide(a, b):
  """Returns a / b, clamped to float32's finite numbers: that keeps XLA from making a / (b * c) of (a / b) / c."""
  return jnp.clip(a / _opaque(b, a), -LARGEST, LARGEST)


def _scale(sums: Array, node: Node, arrays, offset) -> Array:
  """Returns (S + offset) / divisor."""
  return _divide(sums + _opaque(offset, sums), arrays[node["divisor"]])


def _quantize(node, arrays, x):
  del arrays
  if node["shift"]:
    x = x + _opaque(np.float32(node["shift"]), x)
  steps = jnp.clip(_divide(x, np.float32(node["step_size"])), np.float32(node["lowest"]), np.float32(node["highest"]))
  return jnp.round(steps), steps


def _lookup(node, arrays, image):
  table = arrays[node["table"]].astype(np.float32)
  channels = jnp.arange(table.shape[0])
  return jnp.asarray(table)[channels, image.astype(jnp.int32)]


def _exact_sums(node: Node, codes: Array, linear: Callable[[Array], Array]) -> Array:
  """Returns float32 sums, each rounded once, of a map of codes that is linear."""
  if node["largest_sum"] < FLOAT32_INTEGERS:
    return linear(codes)
  high = jnp.floor(codes / DIGIT)
  high, low = (linear(part).astype(jnp.int32) for part in (high, codes - DIGIT * high))
  return (DIGIT * high + low).astype(jnp.float32)


def _conv(node, arrays, codes):
  kernel = jnp.asarray(arrays[node["kernel"]]).astype(jnp.float32)
  (top, bottom), (left, right) = node["padding"]
  window = Window(tuple(node["strides"]), ((top, bottom), (left, right)), tuple(node["dilation"]))

  def convolution(depthwise):
    return lambda x: convolve(x, kernel, window, node["groups"], depthwise)

  if node["groups"] == 1:
    linear = convolution(NATIVE)
  else:  # One file serves all platforms, so the choice is made where it runs.
    linear = lambda x: lax.platform_dependent(x, cpu=convolution(SHIFTED), default=convolution(NATIVE))
  offset = arrays[node["offset"]]
  if "rows" in node:
    offset = jnp.asarray(offset)[np.array(node["rows"])][:, np.array(node["columns"])]
  return _scale(_exact_sums(node, codes, linear), node, arrays, offset)


def _dense(node, arrays, codes):
  kernel = jnp.asarray(arrays[node["kernel"]]).astype(jnp.float32)
  return _scale(_exact_sums(node, codes, lambda x: x @ kernel), node, arrays, arrays[node["offset"]])


def _tree_sum(node, arrays, x):
  del arrays
  axes = node["axes"]
  x = jnp.moveaxis(x, axes, range(-len(axes), 0))
  x = x.reshape(*x.shape[:x.ndim - len(axes)], -1)
  count = x.shape[-1]
  x = jnp.pad(x, (*((0, 0),) * (x.ndim - 1), (0, (1 << (count - 1).bit_length()) - count)))
  while x.shape[-1] > 1:
    half = x.shape[-1] // 2
    x = x[..., :half] + x[..., half:]
  return x[..., 0]


def _max_pool(node, arrays, x):
  del arrays
  return lax.reduce_window(
      x, -jnp.inf, lax.max, (1, *node["window"], 1), (1, *node["strides"], 1),
      ((0, 0), *map(tuple, node["padding"]), (0, 0)))


def _slice(node, arrays, x):
  del arrays
  return x[(slice(None), *(slice(*place) for place in zip(
      node["starts"], node["limits"], node["strides"], strict=True)))]


def _concatenate(node, arrays, *inputs: Array):
  del arrays
  return jnp.concatenate(inputs, node["axis"])


# As evaluator.OPERATIONS.
_OPERATIONS: dict[str, Callable[..., Any]] = {
    name: lambda node, arrays, *inputs, function=function: function(*inputs) for name, function in {
        "max": jnp.maximum, "min": jnp.minimum, "neg": jnp.negative, "abs": jnp.abs, "gt": jnp.greater,
        "ge": jnp.greater_equal, "lt": jnp.less, "le": jnp.less_equal, "eq": jnp.equal, "ne": jnp.not_equal}.items()
} | {
    "add": _binary(jnp.add), "sub": _binary(jnp.subtract), "mul": _binary(_multiply), "div": _binary(_divide),
    "image": _lookup, "lookup": _lookup, "quantize": _quantize, "conv": _conv, "dense": _dense, "sum": _tree_sum,
    "max_pool": _max_pool, "slice": _slice,
    "affine": lambda node, arrays, x: _scale(x, node, arrays, arrays[node["offset"]]),
    "constant": lambda node, arrays: arrays[node["array"]],
    "select": lambda node, arrays, which, if_false, if_true: jnp.where(which, if_true, if_false),
    "reduce_max": lambda node, arrays, x: jnp.max(x, axis=tuple(node["axes"])),
    "reshape": lambda node, arrays, x: x.reshape(x.shape[0], *node["shape"]),
    "transpose": lambda node, arrays, x: x.transpose(node["permutation"]),
    "broadcast": lambda node, arrays, x: jnp.broadcast_to(x, (x.shape[0], *node["shape"])),
    "concatenate": _concatenate,
    "pad": lambda node, arrays, x: jnp.pad(
        x, ((0, 0), *map(tuple, node["padding"])), constant_values=np.float32(node["value"])),
}
