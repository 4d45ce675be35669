"""How much memory the activations of a program take at once: computed from its operations, for one image.

A value is stored where a runtime cannot avoid it: an operation that works element by element is done in the pass that
makes its input, unless another pass reads that input too. Weights are not counted, and nothing is written in place.
"""

from collections.abc import Callable
import math

from metamix_jax.export.evaluator import ELEMENTWISE, Node, Program

# Each value of the result depends on one value of each input.
POINTWISE = {*ELEMENTWISE, "select", "affine", "quantize"}
BYTE, FLOAT32 = 8, 32  # Bits.


def peaks(program: Program) -> dict[str, int]:
  """Returns the bytes of one image's activations at their peak, by how a runtime keeps a code.

  Returns:
    packed_bytes: codes at their own bits, each array rounded up to whole bytes.
    byte_codes_bytes: a byte for each code, as ONNX Runtime keeps them.
    float32_bytes: four bytes for each code, as JAX keeps them.
  """
  return {
      "packed_bytes": peak_bytes(program, lambda node: node["bits"]),
      "byte_codes_bytes": peak_bytes(program, lambda node: BYTE),
      "float32_bytes": peak_bytes(program, lambda node: FLOAT32)}


def peak_bytes(program: Program, bits_of_code: Callable[[Node], int]) -> int:
  """Returns the most bytes that the stored values of one image take while one of them is made.

  While a value is made, it is there itself, and so is every earlier one that is read now or later.

  Args:
    program: the program.
    bits_of_code: (quantiser's node) -> bits that one of its codes takes; other values are float32, images uint8.
  """
  passes = _passes(program)
  order, sizes, inputs = ["image"], {"image": math.prod(program.image_shape)}, {}
  for node in (node for node in program.nodes if node["op"] != "constant"):
    value = passes[node["name"]]
    inputs.setdefault(value, set()).update(
        passes[name] for name in node["inputs"] if name in passes and passes[name] != value)
    if value == node["name"]:
      order.append(value)
      sizes[value] = _bytes(node, bits_of_code)
  last_read = {name: place for place, value in enumerate(order) for name in (value, *inputs.get(value, ()))}
  return max(
      sum(sizes[name] for name in order[:place + 1] if last_read[name] >= place) for place in range(len(order)))


def _passes(program):
  """Returns {value: the stored value in whose pass it is made}; constants, which are weights, are left out."""
  readers: dict[str, list[Node]] = {}
  for node in program.nodes:
    for name in node["inputs"]:
      readers.setdefault(name, []).append(node)
  passes = {}
  for node in reversed(program.nodes):
    name = node["name"]
    ends = {
        passes[reader["name"]] if reader["op"] in POINTWISE and reader["shape"] == node["shape"] else None
        for reader in readers.get(name, ())}
    passes[name] = ends.pop() if len(ends) == 1 and None not in ends else name
  for node in program.nodes:  # In order: a reshape of a reshape is the first one's input.
    if node["op"] == "reshape":
      passes = {name: passes[node["inputs"][0]] if value == node["name"] else value for name, value in passes.items()}
  constants = {node["name"] for node in program.nodes if node["op"] == "constant"}
  return {"image": "image"} | {name: value for name, value in passes.items() if name not in constants}


def _bytes(node, bits_of_code):
  bits = bits_of_code(node) if node["op"] in ("quantize", "lookup") else FLOAT32
  return -(-math.prod(node["shape"]) * bits // 8)
