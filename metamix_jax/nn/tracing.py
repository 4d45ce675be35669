"""The quantised layers of a network and what each costs, from forward passes without numbers.

What a run could only trip over after minutes of compilation is refused here, in one sentence that names the layer.
"""

from collections import Counter
from collections.abc import Callable
import dataclasses
import inspect
import math
import numbers
import re
from typing import Any

from flax import errors as flax_errors
from flax import linen as nn
from flax import traverse_util
import jax
from jax import Array
import jax.numpy as jnp

from metamix_jax.errors import UserError
from metamix_jax.method.bops import LayerCost
from metamix_jax.nn.batch_norm import BatchNorm
from metamix_jax.nn.checks import check_facts, check_quantizer
from metamix_jax.nn.layers import QuantConv, QuantDense, QuantLayer
from metamix_jax.nn.scheme import Quantizer

# What a network may keep between two steps; the others are written anew by each pass that asks for them.
KEPT_COLLECTIONS = ("params", "batch_stats")
WRITTEN_COLLECTIONS = ("calibration", "batch_moments")


@dataclasses.dataclass(frozen=True)
class TracedNetwork:
  """What one image meets in a network.

  Attributes:
    layers: the quantised layers in the order of their calls.
    uncounted: parameters of two or more dimensions outside of quantised layers, "/" between the parts of their names:
      their operations stay in full precision, and no cost counts them.
    variables: shapes of its parameters and running statistics.
    quantizers: of the quantised layers, each once.
  """

  layers: tuple[LayerCost, ...]
  uncounted: tuple[str, ...]
  variables: Any
  quantizers: tuple[Quantizer, ...]


def trace_layers(network: nn.Module, image_shape: tuple[int, int, int]) -> tuple[LayerCost, ...]:
  """Traces a network and returns its quantised layers in the order of their calls, for one image of [H, W, C].

  Raises:
    UserError: as `trace_network`.
  """
  return trace_network(network, image_shape).layers


def trace_network(network: nn.Module, image_shape: tuple[int, int, int]) -> TracedNetwork:
  """Traces a network in evaluation mode on one image.

  Args:
    network: called as network(images, train=...); returns logits [N, classes].
    image_shape: (H, W, C).

  Raises:
    UserError: as `check_evaluation`, or one of the quantised layers cannot be searched or trained; the sentence says
      which and why.
  """
  name, layers, calls, quantizers = type(network).__name__, [], Counter(), []

  def record(call, args, kwargs, context):
    layer, path = context.module, "/".join(context.module.path)
    y = call(*args, **kwargs)
    if isinstance(layer, (QuantLayer, BatchNorm)):
      calls[path, context.method_name] += 1
    if isinstance(layer, QuantLayer) and context.method_name == "__call__":
      x = inspect.signature(type(layer).__call__).bind(layer, *args, **kwargs).args[1]
      layers.append(_cost(layer, path, x, y))
      check_facts(layers[-1], name)
      if layer.scheme.quantizer not in quantizers:
        quantizers.append(layer.scheme.quantizer)
    return y

  variables, written = _evaluate(network, image_shape, record)
  for (path, method), count in calls.items():
    if count > 1 and method == "__call__":
      raise UserError(
          f"layer {path} of {name} is called {count} times in one pass (shared weights, or nn.scan over blocks); "
          "allowed is one call, for it has one input, one choice of bits and one set of statistics.")
  _check_layers(name, [layer.name for layer in layers], calls, variables, written)
  quantized = {tuple(layer.name.split("/")) for layer in layers}
  uncounted = tuple(
      "/".join(path) for path, leaf in traverse_util.flatten_dict(variables.get("params", {})).items()
      if leaf.ndim >= 2 and path[:-1] not in quantized)
  sizes = traverse_util.flatten_dict(variables.get("params", {}), sep="/")
  layers = [
      dataclasses.replace(layer, weight_elements=math.prod(sizes[f"{layer.name}/kernel"].shape)) for layer in layers]
  return TracedNetwork(tuple(layers), uncounted, variables, tuple(quantizers))


def check_evaluation(network: nn.Module, image_shape: tuple[int, int, int]) -> None:
  """Checks that a network returns logits when it is called as the steps call it in evaluation.

  Args:
    network: called as network(images, train=False).
    image_shape: (H, W, C).

  Raises:
    UserError: the network takes no `train`, returns anything but logits, keeps variables in a collection of its own, or
      draws random numbers.
  """
  _evaluate(network, image_shape, lambda call, args, kwargs, context: call(*args, **kwargs))


def check_training(
    traced: TracedNetwork, network: nn.Module, image_shape: tuple[int, int, int], axis_name: str
) -> None:
  """Checks that a network can be trained with what the steps hand it.

  Args:
    traced: of `trace_network`.
    network: called as network(images, train=True).
    image_shape: (H, W, C).
    axis_name: of the pmap axis that the network's layers may use.

  Raises:
    UserError: a quantiser's function cannot be used; the network returns anything but logits in training; or a layer
      keeps `batch_stats` and does not write its `batch_moments`, as BatchNorm does, from which they are re-estimated.
  """
  def train(variables, images):
    logits, written = network.apply(
        variables, images, train=True, mutable=["batch_stats", "batch_moments"], rngs={"params": jax.random.key(0)})
    _check_logits(network, logits, train=True)
    return written

  for quantizer in traced.quantizers:
    check_quantizer(quantizer, any(layer.candidate_weight_bits for layer in traced.layers))

  images = jax.ShapeDtypeStruct((1, 2, *image_shape), jnp.float32)
  written = jax.eval_shape(jax.vmap(train, (None, 0), axis_name=axis_name), traced.variables, images)
  moments = traverse_util.flatten_dict(written.get("batch_moments", {}))
  for path in traverse_util.flatten_dict(traced.variables.get("batch_stats", {})):
    if path not in moments:
      raise UserError(
          f"layer {'/'.join(path[:-1])} of {type(network).__name__} keeps running statistics that cannot be "
          "re-estimated; allowed is what scheme.batch_norm(...) makes.")


def _evaluate(network, image_shape, interceptor):
  """Shapes of the variables of a network, and of what a checked pass in evaluation mode writes for calibration."""
  name = type(network).__name__
  parameters = inspect.signature(type(network).__call__).parameters
  if "train" not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
    raise UserError(f"network {name} takes no argument 'train'; a network is called as network(images, train=...).")
  image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  variables = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=False), image)
  for collection in variables:
    if collection not in KEPT_COLLECTIONS + WRITTEN_COLLECTIONS:
      raise UserError(
          f"network {name} keeps variables in the collection {collection!r}; allowed are "
          f"{' and '.join(KEPT_COLLECTIONS)}.")
  variables = {collection: variables[collection] for collection in KEPT_COLLECTIONS if collection in variables}

  def evaluate(variables, x):
    with nn.intercept_methods(interceptor):
      logits, written = _without_random_numbers(network, lambda: network.apply(
          variables, x, train=False, mutable=["calibration"]))
    _check_logits(network, logits, train=False)
    return written

  return variables, jax.eval_shape(evaluate, variables, image)


def _without_random_numbers(network: nn.Module, run: Callable[[], Any]) -> Any:
  """Runs a pass in evaluation mode and turns Flax's error about random numbers into a sentence."""
  try:
    return run()
  except flax_errors.InvalidRngError as error:
    name = re.search(r'"(\w+)"', str(error))
    raise UserError(
        f"network {type(network).__name__} draws random numbers{f' named {name[1]!r}' if name else ''} in evaluation, "
        "where there are none."
    ) from error


def _cost(layer: QuantLayer, path: str, x: Array, y: Array) -> LayerCost:
  """The static facts of one call of a layer."""
  try:
    macs = layer.macs(x.shape, y.shape)
  except NotImplementedError as error:
    raise UserError(f"the cost of layer {path} is not known: {error}.") from error
  if isinstance(macs, numbers.Integral):
    macs = int(macs)  # An integer of NumPy's, as np.prod returns it, is none for JSON.
  if isinstance(layer, QuantConv):
    kind = "depthwise" if layer.feature_group_count == x.shape[-1] > 1 else "conv"
  else:
    kind = "dense" if isinstance(layer, QuantDense) else "other"
  scheme = layer.scheme_here()
  return LayerCost(
      path, macs, math.prod(x.shape), scheme.candidate_bits, scheme.weight_bits, kind, layer.input_range,
      candidate_weight_bits=scheme.candidate_weight_bits)


def _check_logits(network, logits, train):
  """Raises UserError if a network does not return logits: of one image in evaluation, of two in training."""
  num_images, images, where = (2, "two images", " in training") if train else (1, "one image", "")
  num_classes = getattr(network, "num_classes", None)
  if not isinstance(logits, Array):
    found = f"a {type(logits).__name__}"
  elif logits.ndim != 2 or logits.shape[0] != num_images or num_classes not in (None, logits.shape[1]):
    found = f"an array {list(logits.shape)} for {images}"
  else:
    return
  classes = "classes" if num_classes is None else num_classes
  raise UserError(f"network {type(network).__name__} returns {found}{where}; it must return logits [N, {classes}].")


def _check_layers(network, names, calls, variables, written):
  """Raises UserError where a layer's variables are not those that calibration and weight training look for."""
  kernels = traverse_util.flatten_dict(variables.get("params", {}), sep="/")
  measured = traverse_util.flatten_dict(written.get("calibration", {}), sep="/")
  for name in names:
    for method in ("quantize_input", "quantize_kernel"):
      if calls[name, method] != 1:
        raise UserError(
            f"layer {name} of {network} calls {method} {calls[name, method]} times; allowed is once, for one input and "
            "one kernel.")
    if f"{name}/kernel" not in kernels:
      raise UserError(
          f"layer {name} of {network} has no parameter named kernel, whose step sizes weight training starts.")
    written_here = [measured.pop(f"{name}/{leaf}", None) for leaf in ("mean_magnitude", "minimum")]
    if written_here != [jax.ShapeDtypeStruct((), jnp.float32)] * 2:
      raise UserError(
          f"layer {name} of {network} lies in a lifted transformation (nn.vmap, nn.scan), where one call stands for "
          "several layers; allowed are layers that are written out, and nn.remat.")
  if measured:
    raise UserError(
        f"layer {min(measured).rpartition('/')[0]} of {network} quantises its input, but its __call__ was not seen "
        "(another method was called, or nn.jit hid it); allowed are layers that are called, outside of nn.jit.")
