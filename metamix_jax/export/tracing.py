"""The evaluation pass of a network as a jaxpr in which each quantised layer and each batch norm is one operation."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import linen as nn
import jax
from jax.extend.core import Primitive
import jax.numpy as jnp

from metamix_jax.errors import UserError
from metamix_jax.nn.batch_norm import BatchNorm
from metamix_jax.nn.convolution import pair, window_of
from metamix_jax.nn.layers import QuantConv, QuantDense, QuantLayer
from metamix_jax.nn.scheme import LSQ

QUANTIZED_LAYER = Primitive("quantized_layer")
BATCH_NORM = Primitive("batch_norm")
QUANTIZED_LAYER.def_abstract_eval(lambda x, *, layer, shape: jax.core.ShapedArray((x.shape[0], *shape), x.dtype))
BATCH_NORM.def_abstract_eval(lambda x, *, layer: jax.core.ShapedArray(x.shape, x.dtype))


@dataclasses.dataclass(frozen=True)
class MarkedPass:
  """Holds the evaluation pass of a network.

  Attributes:
    network: name of its class.
    jaxpr: closed, from normalised images [N, H, W, C], float32, to logits; N is symbolic.
    modules: {path: QuantConv, QuantDense or BatchNorm} of the marked operations.
  """

  network: str
  jaxpr: Any
  modules: Mapping[str, nn.Module]


def trace_marked(module: nn.Module, variables: Mapping[str, Any], image_shape: tuple[int, int, int]) -> MarkedPass:
  """Traces module(images, train=False) with its quantised layers and batch norms marked.

  Args:
    module: the network.
    variables: its collections params and batch_stats.
    image_shape: (H, W, C).

  Raises:
    UserError: a layer has a class or a quantiser of its own, or the pass depends on the size of the batch.
  """
  name, modules = type(module).__name__, {}

  def mark(call, args, kwargs, context):
    layer, path = context.module, "/".join(context.module.path)
    if context.method_name != "__call__" or not isinstance(layer, (QuantLayer, BatchNorm)):
      return call(*args, **kwargs)
    modules[path] = layer.clone(parent=None)
    x = kwargs["x"] if "x" in kwargs else args[0]
    if isinstance(layer, BatchNorm):
      return BATCH_NORM.bind(x, layer=path)
    return QUANTIZED_LAYER.bind(x, layer=path, shape=_output_shape(layer, path, x.shape))

  def evaluate(images):
    with nn.intercept_methods(mark):
      return module.apply(variables, images, train=False)

  batch, = jax.export.symbolic_shape("batch")
  images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)
  try:
    jaxpr = jax.make_jaxpr(evaluate)(images)
  except (jax.errors.TracerIntegerConversionError, jax.export.InconclusiveDimensionOperation) as error:
    raise UserError(
        f"network {name} cannot be exported: its pass depends on the number of images in a batch "
        f"({str(error).splitlines()[0].rstrip('.')}).") from error
  return MarkedPass(name, jaxpr, modules)


def _output_shape(layer, path, shape):
  """Returns the shape of a layer's output without the batch; raises UserError for a layer that cannot be exported."""
  if type(layer) not in (QuantConv, QuantDense):
    raise UserError(
        f"layer {path} is a {type(layer).__name__}, which cannot be exported; allowed are QuantConv and QuantDense.")
  if layer.scheme.quantizer != LSQ:
    raise UserError(f"layer {path} has a quantiser of its own, which cannot be exported; allowed is LSQ.")
  if isinstance(layer, QuantDense):
    return (*shape[1:-1], layer.features)
  sizes = []
  window = window_of_layer(layer, shape)
  for size, taps, stride, padding, dilation in zip(
      shape[1:3], pair("kernel_size", layer.kernel_size), *window, strict=True):
    sizes.append((size + sum(padding) - dilation * (taps - 1) - 1) // stride + 1)
  return (*sizes, layer.features)


def window_of_layer(layer: QuantConv, input_shape):
  """Returns the convolution.Window of a layer on an input [N, H, W, C]."""
  return window_of(
      input_shape[1:3], pair("kernel_size", layer.kernel_size), layer.strides, layer.padding, layer.kernel_dilation)
