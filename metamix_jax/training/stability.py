"""Activation stability: how far activation statistics move when the bits change, the paper's motivation [P]."""

from collections.abc import Sequence
import itertools

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from metamix_jax.method.bops import candidate_widths
from metamix_jax.method.precision import assigned_precision, bits_at_width
from metamix_jax.models.network import Tree
from metamix_jax.training.context import TrainingContext
from metamix_jax.training.evaluation import reestimate_batch_statistics
from metamix_jax.training.state import MetaState


def measure_stability(context: TrainingContext, meta: MetaState) -> dict[str, float]:
  """Measures how far each batch-norm layer's input statistics move between the bit-widths of bit-meta training.

  The statistics are averaged over config.reestimation_batches training batches; the state does not change.

  Returns:
    {layer name: `activation_distance`} in network order; {} for a network without batch norm.
  """
  layers, statistics = context.network.layers, []
  for width in candidate_widths(layers):
    precision = assigned_precision(layers, bits_at_width(layers, width))
    batch_stats = reestimate_batch_statistics(context, meta, precision).batch_stats
    statistics.append(traverse_util.flatten_dict(jax.device_get(batch_stats), sep="/"))
  return {
      name: activation_distance(
          [values[f"{name}/mean"] for values in statistics], [values[f"{name}/var"] for values in statistics])
      for name in batch_norm_layers(context.network.module, meta.batch_stats, context.data.image_shape)}


def activation_distance(means: Sequence[np.ndarray], variances: Sequence[np.ndarray]) -> float:
  """Computes how far a layer's statistics move between bit-widths, in standard deviations [A].

  This is the mean, over pairs of bit-widths b, b' and over channels, of sqrt((m_b - m_b')^2 + (d_b - d_b')^2) / d. m_b
  and d_b are the mean and the standard deviation of a channel at b; the root is the 2-Wasserstein distance of two
  Gaussians. d is the root mean square of d_b over the bit-widths. A distance of 0.1 means that statistics move by a
  tenth of a standard deviation when the bits change. Channels that are constant at every bit-width, up to the rounding
  of float32, have no such scale and are left out.

  Args:
    means: [C] for each bit-width.
    variances: [C] for each bit-width.

  Returns:
    The distance; 0.0 if every channel is left out.
  """
  m, variance = np.asarray(means, np.float64), np.asarray(variances, np.float64)
  d, scale = np.sqrt(variance), np.sqrt(np.mean(variance, axis=0))
  varies = scale > np.finfo(np.float32).eps * np.max(np.abs(m), axis=0)
  if not varies.any():
    return 0.0
  distances = [
      np.hypot(m[b] - m[other], d[b] - d[other])[varies] / scale[varies]
      for b, other in itertools.combinations(range(len(m)), 2)]
  return float(np.mean(distances))


def batch_norm_layers(network: nn.Module, batch_stats: Tree, image_shape: tuple[int, int, int]) -> list[str]:
  """Returns the names of the layers that keep running statistics, in the order of their calls.

  Args:
    network: a module that is called as network(images, train=...).
    batch_stats: its collection of running statistics.
    image_shape: (H, W, C).
  """
  keeping = {"/".join(path[:-1]) for path in traverse_util.flatten_dict(batch_stats)}
  names = []

  def record(call, args, kwargs, context):
    name = "/".join(context.module.path)
    if context.method_name == "__call__" and name in keeping:
      names.append(name)
    return call(*args, **kwargs)

  with nn.intercept_methods(record):
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=False), image)
  return names
