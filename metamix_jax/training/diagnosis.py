"""Finds the source of a number that is not finite, after training has stopped for it."""

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from metamix_jax.nn.layers import QuantLayer
from metamix_jax.training.state import MetaState
from metamix_jax.training.steps import AXIS


def first_not_finite(meta: MetaState, batch: dict) -> str:
  """Describes the first place with a number that is not finite: a parameter, a layer's output, or the gradient alone.

  Args:
    meta: the meta-state before the failed update.
    batch: the batch of that update, arrays [devices, N, ...].

  Returns:
    Words for an error message, such as "in the output of layer head".
  """
  for path, values in traverse_util.flatten_dict(
      {"weights": meta.weights, "step_sizes": meta.step_sizes, "batch_stats": meta.batch_stats}, sep="/").items():
    if not np.isfinite(values).all():
      return f"in the parameter {path}"
  names = []

  def finite_outputs(images):
    flags = []
    names.clear()

    def record(call, args, kwargs, context):
      y = call(*args, **kwargs)
      if isinstance(context.module, QuantLayer) and context.method_name == "__call__":
        names.append("/".join(context.module.path))
        flags.append(jnp.isfinite(y).all())
      return y

    with nn.intercept_methods(record):
      # In full precision: what overflows there overflows at every bit-width; what does not is left to the gradient.
      meta.network.apply(
          {"params": meta.weights, "batch_stats": meta.batch_stats}, images, train=True, mutable=["batch_stats"],
          random_key=jax.random.key(0), dtype="float32")
    return flags

  flags = jax.jit(jax.vmap(finite_outputs, axis_name=AXIS))(jax.device_get(batch["image"]))
  for name, flag in zip(names, flags, strict=True):
    if not np.all(flag):
      return f"in the output of layer {name}"
  return "in the gradient or the targets: every layer's output is finite"
