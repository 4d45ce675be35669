"""Batch normalisation over the global batch, with its own gradient and a tap on the batch's own moments.

flax.linen.BatchNorm computes the same forward pass. Ours exists for three reasons: its backward pass saves
x, mean and 1/deviation and nothing else; it keeps PyTorch's running variance (unbiased), so imported networks
go on as they were; and it writes the moments of the batch itself to the collection `batch_moments` when that
is mutable, from which running statistics are re-estimated for one assignment of bits.
"""

from functools import partial

from flax import linen as nn
import jax
from jax import Array
import jax.numpy as jnp


def _mean(x: Array, axis_name: str | None) -> Array:
  """Mean over all axes but the last, and over the replicas; [..., C] -> [C], float32."""
  local = jnp.mean(x, axis=tuple(range(x.ndim - 1)), dtype=jnp.float32)
  return local if axis_name is None else jax.lax.pmean(local, axis_name)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalize_batch(
    x: Array, scale: Array, bias: Array, epsilon: float, axis_name: str | None
) -> tuple[Array, Array, Array]:
  """Normalises by the moments of the global batch.

  Args:
    x: [..., C].
    scale: [C], float32.
    bias: [C], float32.
    epsilon: added to the variance.
    axis_name: pmap axis over which the batch is split, or None.

  Returns:
    y [..., C] in x's dtype; mean [C] and biased variance [C], float32, which carry no gradient.
  """
  return _normalize_forward(x, scale, bias, epsilon, axis_name)[0]


def _normalize_forward(x, scale, bias, epsilon, axis_name):
  wide = x.astype(jnp.float32)
  mean = _mean(wide, axis_name)
  # E[x^2] - E[x]^2, as flax.linen.BatchNorm has it: neither sum needs an array beside x, where E[(x - mean)^2] has
  # x - mean written and read again. The difference loses log10(mean^2 / variance) of float32's seven digits.
  variance = jnp.maximum(_mean(wide * wide, axis_name) - mean * mean, 0)
  inverse_deviation = jax.lax.rsqrt(variance + epsilon)
  y = ((wide - mean) * (inverse_deviation * scale) + bias).astype(x.dtype)
  return (y, mean, variance), (x, scale, mean, inverse_deviation)


def _normalize_backward(epsilon, axis_name, saved, cotangents):
  """With n = (x - mean) / deviation: dx = (dy - mean(dy) - n * mean(dy * n)) * scale / deviation, n never written."""
  del epsilon
  x, scale, mean, inverse_deviation = saved
  wide, dy = x.astype(jnp.float32), cotangents[0].astype(jnp.float32)
  axes = tuple(range(x.ndim - 1))
  dbias = jnp.sum(dy, axes)
  dscale = (jnp.sum(dy * wide, axes) - mean * dbias) * inverse_deviation
  count = x.size // x.shape[-1]
  mean_dy, mean_dy_normalized = dbias / count, dscale / count
  if axis_name is not None:
    mean_dy, mean_dy_normalized = jax.lax.pmean((mean_dy, mean_dy_normalized), axis_name)
  factor = inverse_deviation * scale
  dx = (dy - mean_dy - (wide - mean) * (inverse_deviation * mean_dy_normalized)) * factor
  return dx.astype(x.dtype), dscale, dbias


normalize_batch.defvjp(_normalize_forward, _normalize_backward)


class BatchNorm(nn.Module):
  """Batch norm with running statistics, torchvision's conventions.

  Attributes:
    axis_name: pmap axis over which the batch is split, or None.
    momentum: weight of the OLD running statistics (PyTorch's momentum is 1 minus this).
    epsilon: added to the variance.
    synchronized: whether the moments of the global batch normalise, or on each replica those of its own part; the
      running statistics are then the mean of the parts' moments, the same on all replicas.
  """

  axis_name: str | None
  momentum: float
  epsilon: float
  synchronized: bool = True

  @nn.compact
  def __call__(self, x: Array, *, train: bool) -> Array:
    """[..., C] -> [..., C]; `train`: normalise by the batch and move the running statistics."""
    channels = x.shape[-1:]
    scale = self.param("scale", nn.initializers.ones, channels, jnp.float32)
    bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
    running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
    running_variance = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
    if not train:
      factor = jax.lax.rsqrt(running_variance.value + self.epsilon) * scale
      return ((x - running_mean.value) * factor + bias).astype(x.dtype)

    over = self.axis_name if self.synchronized else None
    y, mean, variance = normalize_batch(x, scale, bias, self.epsilon, over)
    count = x.size // x.shape[-1] * (1 if over is None else jax.lax.psum(1, over))
    unbiased = variance * (count / max(count - 1, 1))
    if over != self.axis_name:
      mean, unbiased = jax.lax.pmean((mean, unbiased), self.axis_name)
    if self.is_mutable_collection("batch_moments"):
      self.put_variable("batch_moments", "mean", mean)
      self.put_variable("batch_moments", "var", unbiased)
    if self.is_mutable_collection("batch_stats"):
      running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
      running_variance.value = self.momentum * running_variance.value + (1 - self.momentum) * unbiased
    return y
