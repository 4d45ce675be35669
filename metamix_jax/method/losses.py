"""The task loss (M9), the cost penalty of the bit search (M11), and multipliers for further limits [A]."""

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


def limit_penalty(excess: Array, multiplier: Array) -> Array:
  """Returns multiplier * excess, the term of one further limit in the Lagrangian of the bit search [A].

  Args:
    excess: (cost - limit) / limit, scalar float32; above 0 where the limit is passed.
    multiplier: in nats, scalar float32, 0 or more.

  Returns:
    Scalar float32, in nats.
  """
  return multiplier * excess


def next_multiplier(multiplier: Array, excess: Array, learning_rate: Array) -> Array:
  """Returns the multiplier of a limit after one step of gradient ascent on the Lagrangian, not below 0 [A].

  It grows while the limit is passed. While there is room it falls back to 0, and the search forgets the limit; that of
  the peak, whose excess is never below 0, stays as it is.

  Args:
    multiplier: in nats, scalar float32.
    excess: as in `limit_penalty`.
    learning_rate: nats for an excess of 1 in one step, scalar float32.
  """
  return jnp.maximum(multiplier + learning_rate * excess, 0.0)
