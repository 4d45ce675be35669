"""How the layers of a network are quantised, and how they run on devices: one static object, given to every layer."""

from collections.abc import Callable
import dataclasses
from typing import NamedTuple

from jax import Array

from metamix_jax.method.bit_mixture import mix_bit_widths
from metamix_jax.method.bops import FULL_PRECISION_BITS
from metamix_jax.method.layer_bits import LayerBits, deciding_pattern
from metamix_jax.method.quantizers import fake_quantize
from metamix_jax.nn.batch_norm import BatchNorm


class Quantizer(NamedTuple):
  """The functions that quantise inputs and kernels; another quantiser takes the same arguments.

  Attributes:
    fake_quantize: one bit-width, as quantizers.fake_quantize (M1).
    mix_bit_widths: the mixture of all, as bit_mixture.mix_bit_widths (M6).
  """

  fake_quantize: Callable[..., Array]
  mix_bit_widths: Callable[..., Array]


LSQ = Quantizer(fake_quantize, mix_bit_widths)


@dataclasses.dataclass(frozen=True)
class Placement:
  """How layers run on devices.

  Attributes:
    axis_name: pmap axis over which a batch is split, or None.
    synchronized_batch_norm: whether batch norm normalises by the global batch, see batch_norm.BatchNorm.
    depthwise: implementation of depthwise convolutions, see convolution.convolve.
  """

  axis_name: str | None = None
  synchronized_batch_norm: bool = True
  depthwise: str = "auto"


@dataclasses.dataclass(frozen=True)
class QuantizationScheme:
  """How the layers of a network are quantised; hashable, a static part of every program.

  Attributes:
    candidate_bits: candidate activation bit-widths B, ascending; a layer with one candidate is not searched.
    weight_bits: bit-width of the kernel when it is quantised, if that is not searched.
    fixed_bits: activation and weight bits of layers that are not searched (first and last) [C].
    placement: how the layers run on devices.
    quantizer: the functions that quantise.
    layer_bits: bits of single layers, which go before all others.
    candidate_weight_bits: candidate bit-widths of the kernels of searched layers, ascending; (): they are not searched.
  """

  candidate_bits: tuple[int, ...]
  weight_bits: int
  fixed_bits: int
  placement: Placement = Placement()
  quantizer: Quantizer = LSQ
  layer_bits: LayerBits = ()
  candidate_weight_bits: tuple[int, ...] = ()

  def of_layer(self, name: str) -> "QuantizationScheme":
    """The scheme of one layer, with what `layer_bits` says about it.

    Candidates leave the weights as they are; one bit-width is for activations and weights, as `fixed` has it; full
    precision is FULL_PRECISION_BITS for both.

    Args:
      name: path of the layer in its network, "/" between its parts.
    """
    if not self.layer_bits:
      return self
    here = dataclasses.replace(self, layer_bits=())
    pattern = deciding_pattern(self.layer_bits, name)
    if pattern is None:
      return here
    bits = dict(self.layer_bits)[pattern]
    if isinstance(bits, tuple):
      return dataclasses.replace(
          here, candidate_bits=bits, candidate_weight_bits=self.candidate_weight_bits if len(bits) > 1 else ())
    bits = FULL_PRECISION_BITS if bits is None else bits
    return dataclasses.replace(here, candidate_bits=(bits,), weight_bits=bits, candidate_weight_bits=())

  @property
  def fixed(self) -> "QuantizationScheme":
    """The scheme of a layer that is not searched: `fixed_bits` for its activations and its weights."""
    return dataclasses.replace(
        self, candidate_bits=(self.fixed_bits,), weight_bits=self.fixed_bits, candidate_weight_bits=())

  def batch_norm(self, momentum: float, epsilon: float, name: str | None = None) -> BatchNorm:
    """Makes a batch norm that runs on devices as `placement` says; every network makes its batch norms here.

    Args:
      momentum: weight of the OLD running statistics.
      epsilon: added to the variance.
      name: of the module, as in flax.linen.
    """
    return BatchNorm(self.placement.axis_name, momentum, epsilon, self.placement.synchronized_batch_norm, name=name)
