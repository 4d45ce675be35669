"""M9 and the cost term of M11."""

import jax
from jax import Array
import jax.numpy as jnp


def soft_cross_entropy(logits: Array, target: Array) -> Array:
  """M9 [C]: -sum_c target_c * log softmax(logits)_c, mean over the batch; temperature 1.

  Args:
    logits: [N, classes]; the loss is computed in float32.
    target: probabilities [N, classes]: the teacher's softmax, or one-hot labels without a teacher.

  Returns:
    Scalar, float32.
  """
  return -jnp.mean(jnp.sum(target * jax.nn.log_softmax(logits.astype(jnp.float32)), axis=-1))


def cost_penalty(gbops: Array, target_gbops: Array, penalty_weight: Array) -> Array:
  """lambda * |GBOPs - target|, the cost term of M11 [P, C].

  Args:
    gbops: cost of one image in GBOPs, scalar float32.
    target_gbops: in GBOPs, scalar.
    penalty_weight: lambda, loss for one GBOP, scalar.
  """
  return penalty_weight * jnp.abs(gbops - target_gbops)
