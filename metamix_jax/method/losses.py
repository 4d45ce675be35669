"""The task loss (M9) and the cost penalty of the bit search (M11)."""

import jax
from jax import Array
import jax.numpy as jnp


def soft_cross_entropy(logits: Array, target: Array) -> Array:
  """M9 [C]: returns the mean over the batch of -sum_c target_c * log softmax(logits)_c, at temperature 1.

  Args:
    logits: [N, classes], floating point; the loss is computed in float32.
    target: probabilities [N, classes]: the teacher's softmax, or one-hot labels where there is no teacher.

  Returns:
    Scalar float32, in nats.
  """
  return -jnp.mean(jnp.sum(target * jax.nn.log_softmax(logits.astype(jnp.float32)), axis=1))


def cost_penalty(gbops: Array | float, target_gbops: Array | float, penalty_weight: Array | float) -> Array:
  """Returns lambda * |GBOPs - target|, the cost term of M11 [P, C].

  Args:
    gbops: cost of one image in GBOPs, scalar float32.
    target_gbops: target cost of one image in GBOPs, scalar.
    penalty_weight: lambda, in nats per GBOP, scalar.

  Returns:
    Scalar float32, in nats.
  """
  return penalty_weight * jnp.abs(gbops - target_gbops)
