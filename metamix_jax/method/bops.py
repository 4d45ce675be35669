"""M8: BOPs and average bits of a network, from the static facts of its layers."""

from collections.abc import Mapping, Sequence
import dataclasses

import jax


@dataclasses.dataclass(frozen=True)
class LayerCost:
  """Static facts of one quantised layer, for one image.

  Attributes:
    name: path of the module, "/" between its parts.
    macs: multiply-accumulate operations of one image.
    input_elements: number of activation elements the layer reads, one image.
    candidate_bits: candidate activation bit-widths; one entry: not searched.
    weight_bits: bits of the weights.
    kind: "conv", "depthwise" or "dense".
    input_range: what the layer reads (M3): "unsigned", "signed" or "hard_swish".
  """

  name: str
  macs: int
  input_elements: int
  candidate_bits: tuple[int, ...]
  weight_bits: int
  kind: str
  input_range: str

  @property
  def searched(self) -> bool:
    """True if the layer has more than one candidate bit-width."""
    return len(self.candidate_bits) > 1


def gbops(layers: Sequence[LayerCost], activation_bits: Mapping[str, float | jax.Array]):
  """M8 [C]: GBOPs = sum_l MACs_l * weight_bits_l * activation_bits_l / 1e9, of one image.

  Args:
    layers: every quantised layer, searched or not.
    activation_bits: bits by layer name: numbers, or scalar arrays where a gradient is wanted.

  Returns:
    A float, or a scalar float32 array if the bits are arrays.
  """
  return sum(activation_bits[layer.name] * (layer.macs * layer.weight_bits / 1e9) for layer in layers)


def uniform_bits(layers: Sequence[LayerCost], candidate: int) -> dict[str, int]:
  """Bits by layer name with every searched layer at its candidate of this index, the others at theirs."""
  return {layer.name: layer.candidate_bits[candidate if layer.searched else 0] for layer in layers}


def attainable_range(layers: Sequence[LayerCost]) -> tuple[float, float]:
  """Lowest and highest GBOPs that the candidate bit-widths allow."""
  return gbops(layers, uniform_bits(layers, 0)), gbops(layers, uniform_bits(layers, -1))


def average_activation_bits(layers: Sequence[LayerCost], activation_bits: Mapping[str, int]) -> float:
  """Average activation bits of all quantised layers, weighted by the elements that each reads [C]."""
  total = sum(layer.input_elements for layer in layers)
  return sum(activation_bits[layer.name] * layer.input_elements for layer in layers) / total
