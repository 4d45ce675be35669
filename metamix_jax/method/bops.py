"""M8: BOPs and average bits of a network, from the static facts of its layers."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import TypeVar, overload

import jax

# Bits of the activations and weights of a layer in full precision, float32.
FULL_PRECISION_BITS = 32
# A number of bits, or for a gradient a scalar array.
BitWidth = TypeVar("BitWidth", int, jax.Array)


@dataclasses.dataclass(frozen=True)
class CostTable:
  """Holds what one layer costs in place of its BOPs (costs.py makes them).

  Attributes:
    name: of the cost, the same for all layers of a network: "latency".
    unit: of one image, the same for all layers: "ms".
    values: cost at each candidate bit-width, finite and 0 or more.
  """

  name: str
  unit: str
  values: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class LayerCost:
  """Holds the static facts of one quantised layer, for one image.

  Attributes:
    name: path of the module, "/" between its parts.
    macs: number of multiply-accumulate operations of one image.
    input_elements: number of activation elements that the layer reads, of one image.
    candidate_bits: candidate activation bit-widths, ascending; a layer with one candidate is not searched.
    weight_bits: bits of the weights. A layer in full precision has FULL_PRECISION_BITS in both.
    kind: "conv", "depthwise" or "dense"; "other" for a user's own layer class.
    input_range: range of the values that the layer reads (M3): "unsigned", "signed" or "hard_swish".
    weight_elements: number of elements of the kernel; None: not known, in files of older runs.
    candidate_weight_bits: candidate bit-widths of the kernel, ascending; (): it is not searched. Its choice has the
      name `kernel_name`.
    cost: what the layer costs; None: BOPs. Networks that differ in their costs alone are equal, and share their
      programs: the search reads the costs as data (training.state.ArchState).
  """

  name: str
  macs: int
  input_elements: int
  candidate_bits: tuple[int, ...]
  weight_bits: int
  kind: str
  input_range: str
  weight_elements: int | None = dataclasses.field(default=None, compare=False)
  cost: CostTable | None = dataclasses.field(default=None, compare=False)
  candidate_weight_bits: tuple[int, ...] = ()

  @property
  def kernel_name(self) -> str:
    """Returns the name of the kernel's bits beside those of the layer's input, which have the name of the layer."""
    return f"{self.name}/kernel"

  @property
  def searched(self) -> bool:
    """Tells whether the layer has more than one candidate bit-width."""
    return len(self.candidate_bits) > 1

  @property
  def quantized(self) -> bool:
    """Tells whether the layer is quantised at all; one in full precision has no step sizes."""
    return FULL_PRECISION_BITS not in self.candidate_bits

  def candidate_of(self, bits: float | jax.Array) -> int:
    """Returns the index of a bit-width among the candidates.

    Raises:
      ValueError: the layer does not have this candidate.
    """
    if bits not in self.candidate_bits:
      raise ValueError(f"layer {self.name!r} is at {bits!r} bits; its candidates are {self.candidate_bits}.")
    return self.candidate_bits.index(int(bits))


@overload
def layer_gbops(layer: LayerCost, activation_bits: float, weight_bits: float | None = None) -> float: ...
@overload
def layer_gbops(
    layer: LayerCost, activation_bits: jax.Array, weight_bits: jax.Array | float | None = None) -> jax.Array: ...
def layer_gbops(layer, activation_bits, weight_bits=None):
  """Returns the cost of one layer on one image; no other function defines it.

  Args:
    layer: static facts of the layer.
    activation_bits: bits of its input: a number, or for BOPs a scalar array for a gradient.
    weight_bits: bits of its kernel, likewise; None: layer.weight_bits. A cost of its own does not depend on them.

  Returns:
    GBOPs, the layer's term of M8: a float, or a scalar float32 array if the bits are an array. If the layer has a cost
    of its own: its value in that unit, a float.

  Raises:
    ValueError: the layer has a cost of its own, and the bits are none of its candidates.
  """
  if layer.cost is not None:
    return layer.cost.values[layer.candidate_of(activation_bits)]
  return activation_bits * (layer.macs * (layer.weight_bits if weight_bits is None else weight_bits) / 1e9)


@overload
def gbops(layers: Sequence[LayerCost], activation_bits: Mapping[str, int] | Mapping[str, float]) -> float: ...
@overload
def gbops(layers: Sequence[LayerCost], activation_bits: Mapping[str, float | jax.Array]) -> jax.Array: ...
def gbops(layers, activation_bits):
  """M8 [C]: computes GBOPs = sum_l MACs_l * weight_bits_l * activation_bits_l / 1e9, of one image.

  For layers that have a cost of their own it is the sum of these, in their unit.

  Args:
    layers: every quantised layer, searched or not.
    activation_bits: bits by layer name: numbers, or scalar arrays for a gradient; and the bits of kernels by their
      name where they are searched.

  Returns:
    A float, or a scalar float32 array if the bits are arrays.
  """
  return sum(
      layer_gbops(layer, activation_bits[layer.name], activation_bits.get(layer.kernel_name)) for layer in layers)


def choices(layers: Sequence[LayerCost]) -> dict[str, tuple[int, ...]]:
  """Returns everything that a search chooses, {name: candidate bits}: the inputs of layers, then kernels."""
  return {layer.name: layer.candidate_bits for layer in layers if layer.searched} | {
      layer.kernel_name: layer.candidate_weight_bits for layer in layers if layer.candidate_weight_bits}


def candidate_widths(layers: Sequence[LayerCost]) -> tuple[int, ...]:
  """Returns every bit-width that some searched layer may take, ascending."""
  return tuple(sorted({bits for layer in layers if layer.searched for bits in layer.candidate_bits}))


def uniform_widths(layers: Sequence[LayerCost]) -> tuple[int, ...]:
  """Returns the bit-widths that all searched layers may take together, ascending."""
  searched = [layer for layer in layers if layer.searched]
  return tuple(bits for bits in candidate_widths(layers) if all(bits in layer.candidate_bits for layer in searched))


def uniform_bits(layers: Sequence[LayerCost], bits: int) -> dict[str, int]:
  """Returns the bits of every quantised layer, by name, with all searched layers at the same bits.

  Raises:
    ValueError: a searched layer does not have this candidate.
  """
  return lowest_bits(layers) | {
      layer.name: layer.candidate_bits[layer.candidate_of(bits)] for layer in layers if layer.searched}


def lowest_bits(layers: Sequence[LayerCost]) -> dict[str, int]:
  """Returns the lowest candidate of every quantised layer, by name."""
  return {layer.name: min(layer.candidate_bits) for layer in layers}


def complete_bits(layers: Sequence[LayerCost], searched_bits: Mapping[str, BitWidth]) -> dict[str, BitWidth | int]:
  """Returns the bits of every quantised layer, in network order, and of searched kernels, from the searched ones.

  Args:
    layers: every quantised layer.
    searched_bits: of each searched layer; a searched kernel that is left out has layer.weight_bits.
  """
  return lowest_bits(layers) | {layer.name: searched_bits[layer.name] for layer in layers if layer.searched} | {
      layer.kernel_name: searched_bits.get(layer.kernel_name, layer.weight_bits)
      for layer in layers if layer.candidate_weight_bits}


def cheapest_bits(layers: Sequence[LayerCost]) -> dict[str, int]:
  """Returns the candidate of every quantised layer that costs least, by name, and of every searched kernel.

  Of equal costs it is the lowest.
  """
  return _bits_by_cost(layers, min)


def attainable_range(layers: Sequence[LayerCost]) -> tuple[float, float]:
  """Returns the lowest and the highest cost that the candidate bit-widths allow, in GBOPs or the unit of the costs."""
  return gbops(layers, cheapest_bits(layers)), gbops(layers, _bits_by_cost(layers, max))


def _bits_by_cost(layers, choose):
  """Returns the candidate that `choose`, min or max, takes by its cost, by name of every layer and searched kernel."""
  return {layer.name: choose(layer.candidate_bits, key=lambda bits: layer_gbops(layer, bits)) for layer in layers} | {
      layer.kernel_name: choose(layer.candidate_weight_bits) for layer in layers if layer.candidate_weight_bits}


def in_bops(layers: Sequence[LayerCost]) -> tuple[LayerCost, ...]:
  """Returns the same layers without costs of their own, so that each costs BOPs (M8)."""
  return tuple(dataclasses.replace(layer, cost=None) for layer in layers)


def cost_name(layers: Sequence[LayerCost]) -> str:
  """Returns the name of what the layers cost: "BOPs", or that of their own costs."""
  first, *_ = layers  # All layers have a cost of their own, or none has.
  return "BOPs" if first.cost is None else first.cost.name


def cost_unit(layers: Sequence[LayerCost]) -> str:
  """Returns the unit of what the layers cost, for labels: "GBOPs", or that of their own costs."""
  first, *_ = layers
  return "GBOPs" if first.cost is None else first.cost.unit


def average_activation_bits(layers: Sequence[LayerCost], activation_bits: Mapping[str, int]) -> float:
  """Returns the average activation bits of all quantised layers, weighted by the elements that each layer reads [C]."""
  total = sum(layer.input_elements for layer in layers)
  return sum(activation_bits[layer.name] * layer.input_elements for layer in layers) / total
