"""From the state of a trained network to the integers and multipliers of a program."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from metamix_jax.errors import UserError
from metamix_jax.export.evaluator import Program
from metamix_jax.export.lowering import Lowering
from metamix_jax.export.tracing import trace_marked, window_of_layer
from metamix_jax.method.quantizers import code_range, input_shift
from metamix_jax.models.network import Network
from metamix_jax.nn.layers import QuantConv

# Below it, stablehlo.py computes sums exactly from two digits of the codes in float32.
LARGEST_SUM = 2**28


def make_program(
    network: Network, variables: Mapping[str, Any], bits: Mapping[str, int], image_shape: tuple[int, int, int]
) -> Program:
  """Makes the integer program of a network that was trained to stage B (M14).

  Args:
    network: the static part.
    variables: its collections params, batch_stats and step_sizes, host arrays.
    bits: activation bits of every quantised layer.
    image_shape: (H, W, C).

  Raises:
    UserError: the network has no weight step sizes, or something in it cannot be exported.
  """
  marked = trace_marked(network.module, {name: variables[name] for name in ("params", "batch_stats")
                                         if name in variables}, image_shape)
  lowering = Lowering(marked)
  nodes = _reachable(lowering.nodes, lowering.logits)
  arrays: dict[str, np.ndarray] = dict(lowering.arrays)
  norms = _norms_of_layers(nodes)
  renamed = {norm["name"]: layer for layer, norm in norms.items()}
  folded = []
  for node in nodes:
    node = node | {"inputs": [renamed.get(name, name) for name in node["inputs"]]}
    if node["name"] in renamed:
      continue
    if node["op"] == "affine":
      folded.append(_fold_norm(node, marked, variables, arrays))
    elif node["op"] == "quantize":
      folded.append(_fold_quantizer(node, marked, variables, bits, network, arrays))
    elif node["op"] in ("conv", "dense"):
      norm = norms.get(node["name"])
      factor, addend = (1.0, 0.0) if norm is None else _factor_and_addend(marked, variables, norm["layer"])
      folded.append(_fold_layer(node, marked, variables, bits, factor, addend, arrays))
    else:
      if node["op"] == "image":
        node["table"], arrays["pixels/table"] = "pixels/table", _pixel_values(network, image_shape[-1])
      folded.append(node)
  folded = _reachable(folded, renamed.get(lowering.logits, lowering.logits))
  used = {node[field] for node in folded for field in ("array", "table", "kernel", "offset", "divisor")
          if field in node}
  return Program(image_shape, folded, {name: array for name, array in arrays.items() if name in used})


def _reachable(nodes, last):
  """Returns the nodes that a node depends on, and itself, in their order."""
  wanted, kept = {last}, []
  for node in reversed(nodes):
    if node["name"] in wanted:
      wanted.update(node["inputs"])
      kept.append(node)
  return kept[::-1]


def _norms_of_layers(nodes):
  """Returns {layer: node of the batch norm that is the only one to read the layer's output}."""
  readers, layers = {}, {node["name"] for node in nodes if node["op"] in ("conv", "dense")}
  for node in nodes:
    for name in node["inputs"]:
      readers.setdefault(name, []).append(node)
  return {layer: readers[layer][0] for layer in layers
          if len(readers.get(layer, ())) == 1 and readers[layer][0]["op"] == "affine"}


def _has_leaf(variables, collection, layer, name) -> bool:
  """Tells whether a layer has an array."""
  node = variables.get(collection, {})
  for part in (*layer.split("/"), name):
    if part not in node:
      return False
    node = node[part]
  return True


def _leaf(variables, collection, layer, name) -> np.ndarray:
  """Returns an array of a layer as float32 NumPy."""
  node = variables[collection]
  for part in (*layer.split("/"), name):
    node = node[part]
  return np.asarray(node, np.float32)


def _factor_and_addend(marked, variables, layer):
  """Returns factor and addend [C] of y = x * factor + addend, a batch norm in evaluation, float64."""
  scale, bias, mean, variance = (
      _leaf(variables, collection, layer, name).astype(np.float64) for collection, name in (
          ("params", "scale"), ("params", "bias"), ("batch_stats", "mean"), ("batch_stats", "var")))
  factor = scale / np.sqrt(variance + marked.modules[layer].epsilon)
  return factor, bias - mean * factor


def _fold_norm(node, marked, variables, arrays):
  factor, addend = _factor_and_addend(marked, variables, node["layer"])
  if not np.all(factor):
    channel = int(np.argmin(np.abs(factor)))
    raise UserError(
        f"batch norm {node['layer']} has the scale 0 in channel {channel} and follows no quantised layer alone, so "
        "nothing can take it up; such a network cannot be exported.")
  offset, divisor, _ = _offset_and_divisor(factor, addend)
  return node | _store(arrays, node["layer"], offset=offset, divisor=divisor)


def _offset_and_divisor(factor, addend):
  """Returns float32 offset and divisor of (S + offset) / divisor = S * factor + addend, and which channels live.

  A channel whose factor is 0, or so small that float32 cannot hold the quotients, is a constant: S must be 0 there.

  Args:
    factor: [C], float64.
    addend: [..., C], float64.
  """
  with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
    offset, divisor = (addend / factor).astype(np.float32), (1 / factor).astype(np.float32)
  alive = np.isfinite(divisor) & np.isfinite(offset).all(tuple(range(offset.ndim - 1)))
  offset = np.where(alive, offset, addend.astype(np.float32)) + np.float32(0)  # No negative zero.
  return offset, np.where(alive, divisor, np.float32(1)), alive


def _fold_quantizer(node, marked, variables, bits, network, arrays):
  layer = node["layer"]
  scheme, input_range = marked.modules[layer].scheme, marked.modules[layer].input_range
  for leaf, part in (("activation", "input"), ("weight", "weights")):
    if not _has_leaf(variables, "step_sizes", layer, leaf):
      raise UserError(
          f"layer {layer} has no step sizes of its {part}: the network was not trained to stage B; only such a network "
          "can be exported.")
  step_size = _leaf(variables, "step_sizes", layer, "activation")[scheme.candidate_bits.index(bits[layer])]
  codes = code_range(bits[layer], input_range)
  node |= {
      "bits": bits[layer], "input_range": input_range, "step_size": float(step_size),
      "lowest": int(codes.lowest), "highest": int(codes.highest), "shift": input_shift(input_range)}
  if node["inputs"] != ["pixels"]:
    return node
  table = _pixel_values(network, node["shape"][-1]) + np.float32(node["shift"])
  table = np.rint(np.clip(table / step_size, np.float32(node["lowest"]), np.float32(node["highest"])))
  return node | {"op": "lookup", "inputs": ["image"]} | _store(
      arrays, layer, table=table.astype(np.int16))


def _pixel_values(network, channels):
  """Returns the normalised value of each uint8 in each channel [C, 256], float32."""
  pixels = np.tile(np.arange(256, dtype=np.uint8)[:, None, None], (1, 1, channels))
  return np.asarray(network.normalize(pixels[None]), np.float32)[0, :, 0].T


def _fold_layer(node, marked, variables, bits, factor, addend, arrays):
  layer, module = node["layer"], marked.modules[node["layer"]]
  weight_bits = module.scheme.weight_bits
  kernel = _leaf(variables, "params", layer, "kernel")
  step_sizes = _leaf(variables, "step_sizes", layer, "weight")
  limit = np.float32(code_range(weight_bits, "signed").highest)
  codes = np.rint(np.clip(kernel / step_sizes, -limit, limit)).astype(np.int8)
  input_step = np.float64(
      _leaf(variables, "step_sizes", layer, "activation")[module.scheme.candidate_bits.index(bits[layer])])
  addend = np.broadcast_to(addend, step_sizes.shape) + (
      _leaf(variables, "params", layer, "bias").astype(np.float64) * factor
      if _has_leaf(variables, "params", layer, "bias") else 0.0)
  factor = input_step * step_sizes.astype(np.float64) * factor
  # In steps: what each code that lies inside of the image has too much.
  shift = input_shift(module.input_range) / input_step
  fields: dict[str, Any] = {}
  excess = codes.sum(tuple(range(codes.ndim - 1)), dtype=np.float64)
  if isinstance(module, QuantConv):
    window = window_of_layer(module, (1, *node["input_shape"]))
    fields |= {
        "strides": list(window.strides), "padding": [list(sides) for sides in window.padding],
        "dilation": list(window.dilation), "groups": module.feature_group_count}
    if shift and np.any(window.padding):
      excess, fields["rows"], fields["columns"] = _codes_inside(codes, node, window)
  offset, divisor, alive = _offset_and_divisor(factor, addend - shift * excess * factor)
  codes = np.where(alive, codes, np.int8(0))
  magnitudes = np.abs(codes.astype(np.int64)).sum(tuple(range(codes.ndim - 1)))
  largest_sum = int(code_range(bits[layer], module.input_range).highest) * int(magnitudes.max())
  if largest_sum >= LARGEST_SUM:
    raise UserError(
        f"layer {layer} has sums of codes up to {largest_sum:,}; the files of an export are proven to be equal below "
        f"{LARGEST_SUM:,}, so this network cannot be exported.")
  fields |= {
      "input_bits": bits[layer], "weight_bits": weight_bits, "kernel_shape": list(codes.shape),
      "largest_sum": largest_sum}
  node = {name: value for name, value in node.items() if name != "input_shape"} | fields
  return node | _store(arrays, layer, kernel=codes, offset=offset, divisor=divisor)


def _codes_inside(codes, node, window):
  """Returns the sums of the weight codes whose taps lie inside of the image, by class of position.

  Returns:
    Sums [classes of rows, classes of columns, features]; the class of each row and of each column of the output.
  """
  inside, classes = [], []
  for axis in range(2):
    taps, size, out = codes.shape[axis], node["input_shape"][axis], node["shape"][axis]
    places = (np.arange(out)[:, None] * window.strides[axis] - window.padding[axis][0]
              + np.arange(taps) * window.dilation[axis])
    unique, inverse = np.unique((places >= 0) & (places < size), axis=0, return_inverse=True)
    inside.append(unique.astype(np.float64))
    classes.append(inverse.reshape(-1).tolist())
  sums = np.einsum("ri,cj,ijf->rcf", *inside, codes.sum(2, dtype=np.float64))
  return sums, *classes


def _store(arrays, prefix, **values):
  """Adds arrays under prefix/field, and returns {field: name}."""
  arrays |= {f"{prefix}/{field}": value for field, value in values.items()}
  return {field: f"{prefix}/{field}" for field in values}
