"""Costs of a layer besides BOPs: bytes of activations and of weights, and any table of a user's own [A]."""

from collections.abc import Mapping, Sequence
import dataclasses
import math

from metamix_jax.errors import UserError
from metamix_jax.method.bops import CostTable, LayerCost

# Values of config.arch.cost besides a file.
BOPS, ACTIVATION_BYTES = COMPUTED = ("bops", "activation_bytes")
BITS_PER_BYTE = 8

# (layer name, activation bits, weight bits; None: whatever they are) -> cost of one image.
Values = Mapping[tuple[str, int, int | None], float]


def with_activation_bytes(layers: Sequence[LayerCost]) -> tuple[LayerCost, ...]:
  """Returns the layers with the bytes that each of them reads as their cost."""
  return tuple(
      dataclasses.replace(layer, cost=CostTable(
          "activation bytes", "bytes", tuple(activation_bytes(layer, bits) for bits in layer.candidate_bits)))
      for layer in layers)


def with_table(
    layers: Sequence[LayerCost], name: str, unit: str, values: Values, source: str
) -> tuple[LayerCost, ...]:
  """Returns the layers with their values of a table as their cost.

  A layer that is not searched may be left out; it then costs nothing. Rows of further bit-widths are not used.

  Args:
    layers: every quantised layer.
    name: of the cost.
    unit: of one image.
    values: for each layer and bit-width; a row with the layer's weight bits goes before one without weight bits.
    source: names the table in errors.

  Raises:
    UserError: a searched layer or one of its candidates is missing, a layer that is not searched has rows of other
      bit-widths alone, a value is not finite or below 0, or the table has a layer that the network does not have.
  """
  known = {layer.name for layer in layers}
  for name_of_layer, _, _ in values:
    if name_of_layer not in known:
      raise UserError(
          f"{source} has the layer {name_of_layer!r}, which is not one of the network; the layers are "
          f"{', '.join(layer.name for layer in layers)}.")
  return tuple(
      dataclasses.replace(layer, cost=CostTable(
          name, unit, tuple(_value(layer, bits, values, source) for bits in layer.candidate_bits)))
      for layer in layers)


def _value(layer, bits, values, source):
  """Returns the value of a layer at one of its candidates."""
  for key in ((layer.name, bits, layer.weight_bits), (layer.name, bits, None)):
    if key in values:
      if not (math.isfinite(values[key]) and values[key] >= 0):
        raise UserError(
            f"{source} has the value {values[key]} for layer {layer.name} at {bits} activation bits; it must be a "
            "finite number, 0 or more.")
      return values[key]
  if layer.searched or any(name == layer.name for name, _, _ in values):
    raise UserError(
        f"{source} has no value for layer {layer.name} at {bits} activation bits and {layer.weight_bits} weight bits; "
        f"it must have one for each of its candidates, {', '.join(map(str, layer.candidate_bits))}.")
  return 0.0


def activation_bytes(layer: LayerCost, bits: int) -> float:
  """Returns the bytes of one image that a layer reads as codes of `bits` bits, packed without gaps."""
  return layer.input_elements * bits / BITS_PER_BYTE


def total_activation_bytes(layers: Sequence[LayerCost], activation_bits: Mapping[str, int]) -> float:
  """Returns the bytes of one image that all layers read; `activation_bits` by layer name."""
  return sum(activation_bytes(layer, activation_bits[layer.name]) for layer in layers)


def peak_activation_bytes(layers: Sequence[LayerCost], activation_bits: Mapping[str, int]) -> float:
  """Returns the bytes of one image of the largest input of a layer; `activation_bits` by layer name."""
  return max(activation_bytes(layer, activation_bits[layer.name]) for layer in layers)


def weight_bytes(layers: Sequence[LayerCost]) -> float | None:
  """Returns the bytes of all kernels at their weight bits; None where their sizes are not known."""
  bits = 0
  for layer in layers:
    if layer.weight_elements is None:
      return None
    bits += layer.weight_elements * layer.weight_bits
  return bits / BITS_PER_BYTE
