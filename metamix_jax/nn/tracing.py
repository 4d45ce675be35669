"""The quantised layers of a network and what each costs, from forward passes without numbers.

What a run could only trip over after minutes of compilation is refused here, in one sentence that names the layer.
"""

from collections import Counter
from collections.abc import Callable
import dataclasses
import inspect
import math
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
from metamix_jax.nn.layers import QuantConv, QuantDense, QuantLayer

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
  """

  layers: tuple[LayerCost, ...]
  uncounted: tuple[str, ...]
  variables: Any


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
  name, layers, calls = type(network).__name__, [], Counter()

  def record(call, args, kwargs, context):
    layer, path = context.module, "/".join(context.module.path)
    y = call(*args, **kwargs)
    if isinstance(layer, (QuantLayer, BatchNorm)):
      calls[path, context.method_name] += 1
    if isinstance(layer, QuantLayer) and context.method_name == "__call__":
      x = inspect.signature(type(layer).__call__).bind(layer, *args, **kwargs).args[1]
      layers.append(_cost(layer, path, x, y))
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
  return TracedNetwork(tuple(layers), uncounted, variables)


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
    UserError: a layer keeps `batch_stats` and does not write its `batch_moments`, as BatchNorm does, from which they
      are re-estimated.
  """
  def train(variables, images):
    _, written = network.apply(
        variables, images, train=True, mutable=["batch_stats", "batch_moments"], rngs={"params": jax.random.key(0)})
    return written

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
      return _without_random_numbers(network, lambda: network.apply(
          variables, x, train=False, mutable=["calibration"]))

  logits, written = jax.eval_shape(evaluate, variables, image)
  _check_logits(network, logits)
  return variables, written


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
  if isinstance(layer, QuantConv):
    kind = "depthwise" if layer.feature_group_count == x.shape[-1] > 1 else "conv"
  else:
    kind = "dense" if isinstance(layer, QuantDense) else "other"
  scheme = layer.scheme.of_layer(path)
  return LayerCost(
      path, macs, math.prod(x.shape), scheme.candidate_bits, scheme.weight_bits, kind, layer.input_range,
      candidate_weight_bits=scheme.candidate_weight_bits)


def _check_logits(network, logits):
  """Raises UserError if a network of one image does not return logits [1, classes]."""
  num_classes = getattr(network, "num_classes", None)
  if not isinstance(logits, jax.ShapeDtypeStruct):
    found = f"a {type(logits).__name__}"
  elif len(logits.shape) != 2 or logits.shape[0] != 1 or num_classes not in (None, logits.shape[1]):
    found = f"an array {list(logits.shape)} for one image"
  else:
    return
  classes = "classes" if num_classes is None else num_classes
  raise UserError(f"network {type(network).__name__} returns {found}; it must return logits [N, {classes}].")


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
