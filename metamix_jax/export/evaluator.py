"""Evaluates an exported program with NumPy alone; this file defines what every exported file of a network computes.

  python evaluator.py            beside program.json, program.npz and golden.npz: checks the golden images

It needs NumPy and nothing else: an export copies it beside the program. All floating-point operations are single
float32 operations, rounded to nearest, ties to even, none fused with another; sums of codes are integers.
docs/export.md describes the two files of a program.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import math
import pathlib
from typing import Any

import numpy as np

FORMAT, VERSION = "metamix_jax integer program", 1
# Below it float32 holds every integer, and a sum of integers is exact in any order.
FLOAT32_INTEGERS = 2**24

Node = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Program:
  """Holds a network as a list of operations.

  Attributes:
    image_shape: (H, W, C) of the uint8 images that it reads.
    nodes: operations in an order in which every input stands before its use; the last one returns the logits.
    arrays: arrays by name; kernels are codes, unpacked.
  """

  image_shape: tuple[int, int, int]
  nodes: Sequence[Node]
  arrays: Mapping[str, np.ndarray]

  @property
  def quantized(self) -> list[Node]:
    """Returns the nodes of the quantised layers, in network order."""
    return [node for node in self.nodes if node["op"] in ("conv", "dense")]

  @property
  def quantizers(self) -> list[Node]:
    """Returns the nodes that make codes, in network order."""
    return [node for node in self.nodes if node["op"] in ("quantize", "lookup")]


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Holds what a program makes of N images.

  Attributes:
    logits: [N, classes], float32.
    codes: {layer: codes of its input [N, ...], int16}.
    steps: {layer: what was rounded to codes, x / s clipped to the range of codes [N, ...], float32}.
  """

  logits: np.ndarray
  codes: dict[str, np.ndarray]
  steps: dict[str, np.ndarray]


def load(folder: pathlib.Path) -> Program:
  """Reads program.json and program.npz.

  Raises:
    ValueError: the files are of another format or version.
  """
  description = json.loads((folder / "program.json").read_text(encoding="utf-8"))
  if (description.get("format"), description.get("version")) != (FORMAT, VERSION):
    raise ValueError(f"{folder / 'program.json'} is not a {FORMAT} of version {VERSION}.")
  with np.load(folder / "program.npz", allow_pickle=False) as file:
    arrays = {name: file[name] for name in file.files}
  for node in description["nodes"]:
    if "kernel" in node:
      arrays[node["kernel"]] = unpack(arrays[node["kernel"]], node["weight_bits"], node["kernel_shape"])
  return Program(tuple(description["image_shape"]), description["nodes"], arrays)


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
  """Packs integers as two's complement of `bits` bits, the lowest bit first, in row-major order; uint8 [bytes]."""
  planes = (codes.reshape(-1, 1).astype(np.int32) >> np.arange(bits)) & 1
  return np.packbits(planes.astype(np.uint8).reshape(-1), bitorder="little")


def unpack(packed: np.ndarray, bits: int, shape: Sequence[int]) -> np.ndarray:
  """Unpacks what `pack` packed; int8 of a shape."""
  planes = np.unpackbits(packed, count=bits * math.prod(shape), bitorder="little").reshape(-1, bits)
  codes = planes.astype(np.int32) @ (1 << np.arange(bits))
  return np.where(codes >= 1 << bits - 1, codes - (1 << bits), codes).astype(np.int8).reshape(shape)


def evaluate(program: Program, images: np.ndarray, codes: Mapping[str, np.ndarray] | None = None) -> Evaluation:
  """Evaluates a program.

  Args:
    program: the program.
    images: uint8 [N, H, W, C].
    codes: {layer: codes}: what these layers read instead of the codes that the program makes; None: nothing.

  Raises:
    ValueError: the images have another shape or dtype.
  """
  if images.dtype != np.uint8 or images.shape[1:] != program.image_shape:
    raise ValueError(f"images are {images.dtype} {images.shape}; allowed are uint8 [N, *{program.image_shape}].")
  last_use = {name: number for number, node in enumerate(program.nodes) for name in node["inputs"]}
  values, made, steps = {"image": images}, {}, {}
  for number, node in enumerate(program.nodes):
    y = OPERATIONS[node["op"]](node, program.arrays, *(values[name] for name in node["inputs"]))
    if node["op"] in ("quantize", "lookup"):
      if node["op"] == "quantize":
        y, steps[node["layer"]] = y
      made[node["layer"]] = y
      if codes is not None and node["layer"] in codes:
        y = codes[node["layer"]]
    values[node["name"]] = y
    for name in {name for name in node["inputs"] if last_use[name] == number}:
      del values[name]
  return Evaluation(values[program.nodes[-1]["name"]], made, steps)


def quantize(node: Node, arrays, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns the codes round(clip((x + shift) / s, n, p)), int16, and what was rounded, float32."""
  del arrays
  if node["shift"]:
    x = x + np.float32(node["shift"])
  steps = np.clip(x / np.float32(node["step_size"]), np.float32(node["lowest"]), np.float32(node["highest"]))
  return np.rint(steps).astype(np.int16), steps


def lookup(node: Node, arrays, image: np.ndarray) -> np.ndarray:
  """Returns the entries of a table [C, 256] for a uint8 image [N, H, W, C]; codes are int16, values float32."""
  table = arrays[node["table"]]
  return table[np.arange(table.shape[0]), image]


def conv(node: Node, arrays, codes: np.ndarray) -> np.ndarray:
  """Returns (S + offset) / divisor [N, H', W', features], S the integer sums of a convolution of codes."""
  kernel, groups = arrays[node["kernel"]], node["groups"]
  (k_h, k_w, depth, features), (rows, columns) = kernel.shape, node["shape"][:2]
  dtype = exact_dtype(node)
  x = np.pad(codes.astype(dtype), ((0, 0), *node["padding"], (0, 0)))
  kernel = kernel.astype(dtype)
  sums = np.zeros((len(codes), rows, columns, features), dtype)
  for i in range(k_h):
    for j in range(k_w):
      (top, left), (down, right) = (i * node["dilation"][0], j * node["dilation"][1]), node["strides"]
      taps = x[:, top:top + (rows - 1) * down + 1:down, left:left + (columns - 1) * right + 1:right]
      if depth == 1:
        sums += np.repeat(taps, features // groups, axis=-1) * kernel[i, j, 0]
      else:
        taps = np.moveaxis(taps.reshape(-1, groups, depth), 1, 0)
        products = taps @ np.moveaxis(kernel[i, j].reshape(depth, groups, -1), 1, 0)
        sums += np.moveaxis(products, 0, 1).reshape(sums.shape)
  offset = arrays[node["offset"]]  # [features], or with one entry for each class of positions.
  if "rows" in node:
    offset = offset[np.array(node["rows"])][:, np.array(node["columns"])]
  return (sums.astype(np.float32) + offset) / arrays[node["divisor"]]


def dense(node: Node, arrays, codes: np.ndarray) -> np.ndarray:
  """Returns (S + offset) / divisor [N, ..., features], S the integer sums of a product with the kernel."""
  dtype = exact_dtype(node)
  sums = codes.astype(dtype) @ arrays[node["kernel"]].astype(dtype)
  return (sums.astype(np.float32) + arrays[node["offset"]]) / arrays[node["divisor"]]


def exact_dtype(node: Node):
  """Returns the smaller floating-point type in which every sum of a layer is an exact integer."""
  return np.float32 if node["largest_sum"] < FLOAT32_INTEGERS else np.float64


def affine(node: Node, arrays, x: np.ndarray) -> np.ndarray:
  """Returns (x + offset) / divisor, both by channel: a batch norm that no layer takes up."""
  return (x + arrays[node["offset"]]) / arrays[node["divisor"]]


def tree_sum(node: Node, arrays, x: np.ndarray) -> np.ndarray:
  """Sums over axes in a fixed order: in row-major order, zeros up to a power of two, then half plus half."""
  del arrays
  x = np.moveaxis(x, node["axes"], range(-len(node["axes"]), 0))
  x = x.reshape(*x.shape[:x.ndim - len(node["axes"])], -1)
  count = x.shape[-1]
  x = np.concatenate([x, np.zeros((*x.shape[:-1], (1 << (count - 1).bit_length()) - count), x.dtype)], -1)
  while x.shape[-1] > 1:
    half = x.shape[-1] // 2
    x = x[..., :half] + x[..., half:]
  return x[..., 0]


def max_pool(node: Node, arrays, x: np.ndarray) -> np.ndarray:
  """Returns the maximum under each window of a [N, H, W, C]; outside of the image there is nothing."""
  del arrays
  x = np.pad(x, ((0, 0), *node["padding"], (0, 0)), constant_values=-np.inf)
  (rows, columns), (down, right) = node["shape"][:2], node["strides"]
  y = np.full((len(x), *node["shape"]), -np.inf, np.float32)
  for i in range(node["window"][0]):
    for j in range(node["window"][1]):
      y = np.maximum(y, x[:, i:i + (rows - 1) * down + 1:down, j:j + (columns - 1) * right + 1:right])
  return y


def _slice(node: Node, arrays, x: np.ndarray) -> np.ndarray:
  del arrays
  return x[(slice(None), *(slice(*place) for place in zip(
      node["starts"], node["limits"], node["strides"], strict=True)))]


def _concatenate(node: Node, arrays, *inputs: np.ndarray) -> np.ndarray:
  del arrays
  return np.concatenate(inputs, node["axis"])


# Elementwise operations of one or two float32 values, broadcast as NumPy does.
ELEMENTWISE: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "max": np.maximum, "min": np.minimum,
    "neg": np.negative, "abs": np.abs, "gt": np.greater, "ge": np.greater_equal, "lt": np.less, "le": np.less_equal,
    "eq": np.equal, "ne": np.not_equal,
}
# Every operation: (node, arrays, *inputs) -> value. Axes count the batch as 0; shapes leave it out.
OPERATIONS: dict[str, Callable[..., Any]] = {
    name: lambda node, arrays, *inputs, function=function: function(*inputs) for name, function in ELEMENTWISE.items()
} | {
    "image": lookup, "lookup": lookup, "quantize": quantize, "conv": conv, "dense": dense, "affine": affine,
    "sum": tree_sum, "max_pool": max_pool, "slice": _slice,
    "constant": lambda node, arrays: arrays[node["array"]],
    "select": lambda node, arrays, which, if_false, if_true: np.where(which, if_true, if_false),
    "reduce_max": lambda node, arrays, x: np.max(x, axis=tuple(node["axes"])),
    "reshape": lambda node, arrays, x: x.reshape(len(x), *node["shape"]),
    "transpose": lambda node, arrays, x: x.transpose(node["permutation"]),
    "broadcast": lambda node, arrays, x: np.broadcast_to(x, (len(x), *node["shape"])),
    "concatenate": _concatenate,
    "pad": lambda node, arrays, x: np.pad(x, ((0, 0), *node["padding"]), constant_values=np.float32(node["value"])),
}


def check_golden(folder: pathlib.Path) -> str:
  """Evaluates the golden images of an export, and returns what was compared in words.

  Raises:
    ValueError: a code or a logit differs.
  """
  program = load(folder)
  with np.load(folder / "golden.npz", allow_pickle=False) as file:
    golden = {name: file[name] for name in file.files}
  result = evaluate(program, golden["images"])
  for layer, codes in result.codes.items():
    if not np.array_equal(codes, golden[f"codes/{layer}"]):
      raise ValueError(f"the codes of {layer} are others than in golden.npz.")
  if result.logits.tobytes() != golden["logits"].tobytes():
    raise ValueError("the logits are others than in golden.npz.")
  count = sum(codes.size for codes in result.codes.values())
  return (f"{len(golden['images'])} golden images: {count:,} codes and {result.logits.size} logits are equal bit for "
          "bit.")


if __name__ == "__main__":
  print(check_golden(pathlib.Path(__file__).resolve().parent))
