"""The evaluation pass of a network as a jaxpr in which each quantised layer and each batch norm is one operation."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import linen as nn
import jax
from jax.extend.core import Primitive, jaxprs_in_params
import jax.numpy as jnp

from metamix_jax.errors import UserError
from metamix_jax.nn.batch_norm import BatchNorm
from metamix_jax.nn.convolution import pair, window_of
from metamix_jax.nn.layers import QuantConv, QuantDense, QuantLayer
from metamix_jax.nn.scheme import LSQ

# A symbolic size would turn plain slices into gathers.
BATCH_SIZES = (251, 509, 1021)
QUANTIZED_LAYER = Primitive("quantized_layer")
BATCH_NORM = Primitive("batch_norm")
QUANTIZED_LAYER.def_abstract_eval(lambda x, *, layer, shape: jax.core.ShapedArray((x.shape[0], *shape), x.dtype))
BATCH_NORM.def_abstract_eval(lambda x, *, layer: jax.core.ShapedArray(x.shape, x.dtype))


@dataclasses.dataclass(frozen=True)
class MarkedPass:
  """Holds the evaluation pass of a network.

  Attributes:
    network: name of its class.
    jaxpr: closed, from normalised images [N, H, W, C], float32, to logits.
    batch: N, a prime number that no other axis is a multiple of, so that every axis of this size is the batch.
    modules: {path: QuantConv, QuantDense or BatchNorm} of the marked operations.
  """

  network: str
  jaxpr: Any
  batch: int
  modules: Mapping[str, nn.Module]


def trace_marked(module: nn.Module, variables: Mapping[str, Any], image_shape: tuple[int, int, int]) -> MarkedPass:
  """Traces module(images, train=False) with its quantised layers and batch norms marked.

  Args:
    module: the network.
    variables: its collections params and batch_stats.
    image_shape: (H, W, C).

  Raises:
    UserError: a layer has a class or a quantiser of its own, or images of a batch are mixed.
  """
  name, modules = type(module).__name__, {}

  def mark(call, args, kwargs, context):
    layer, path = context.module, "/".join(context.module.path)
    if context.method_name != "__call__" or not isinstance(layer, (QuantLayer, BatchNorm)):
      return call(*args, **kwargs)
    modules[path] = layer.clone(parent=None)
    if isinstance(layer, QuantLayer):  # A copy without a parent does not know its path.
      modules[path] = layer.clone(parent=None, scheme=layer.scheme.of_layer(path))
    x = kwargs["x"] if "x" in kwargs else args[0]
    if isinstance(layer, BatchNorm):
      return BATCH_NORM.bind(x, layer=path)
    return QUANTIZED_LAYER.bind(x, layer=path, shape=_output_shape(layer, path, x.shape))

  def evaluate(images):
    with nn.intercept_methods(mark):
      return module.apply(variables, images, train=False)

  for batch in BATCH_SIZES:
    jaxpr = jax.make_jaxpr(evaluate)(jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32))
    if not any(size and size % batch == 0 for shape in _shapes(jaxpr.jaxpr) for size in shape[1:]):
      return MarkedPass(name, jaxpr, batch, modules)
  raise UserError(
      f"network {name} moves or mixes images in a batch, which cannot be exported; allowed are operations that treat "
      "each image alone.")


def _shapes(jaxpr):
  """Yields the shapes of all values of a jaxpr and of those within it."""
  for equation in jaxpr.eqns:
    yield from (variable.aval.shape for variable in equation.outvars)
    for inner in jaxprs_in_params(equation.params):
      yield from _shapes(inner)


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
