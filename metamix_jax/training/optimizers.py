"""Optax optimisers: which parameter gets which treatment, written as labels.

Weight side: clip by global norm over everything, then by label: convolution kernels get L2 (added to the
gradient, not decoupled [C]), everything else does not. Architecture side: Adam with L2 on alpha [C].
"""

from collections.abc import Hashable
import functools

from flax import traverse_util
import optax


def weight_label(path: tuple[str, ...], ndim: int) -> str:
  """The label of one leaf on the weight side.

  Args:
    path: of the leaf in {"weights": ..., "step_sizes": ...}.
    ndim: number of dimensions of the leaf.

  Returns:
    "conv_kernel": a weight named kernel of three or more dimensions, [*window, in, out], be it of a 1-D, 2-D or 3-D
    convolution (nn.DenseGeneral of several axes, and attention, have such kernels too). "other_weight": every other
    weight, whatever its name. "step_size": a step size.

  Raises:
    ValueError: no rule covers the leaf.
  """
  tree, name = path[0], path[-1]
  if tree == "step_sizes" and name in ("activation", "weight"):
    return "step_size"
  if tree == "weights":
    return "conv_kernel" if name == "kernel" and ndim >= 3 else "other_weight"
  raise ValueError(f"{'/'.join(path)} has no optimiser: step sizes are named activation or weight.")


def weight_labels(trainable) -> dict:
  """Labels of all leaves of {"weights": ..., "step_sizes": ...}, a tree of the same structure.

  Raises:
    ValueError: a leaf that no rule covers.
  """
  leaves = traverse_util.flatten_dict(trainable, keep_empty_nodes=True)
  labels = {
      path: leaf if leaf is traverse_util.empty_node else weight_label(path, leaf.ndim)
      for path, leaf in leaves.items()
  }
  return traverse_util.unflatten_dict(labels)


def weight_optimizer(
    learning_rate: optax.ScalarOrSchedule, *, beta1: float, beta2: float, epsilon: float, conv_l2: float,
    max_gradient_norm: float,
) -> optax.GradientTransformation:
  """Adam for weights, step sizes and batch norm [C], on {"weights": ..., "step_sizes": ...}.

  Args:
    learning_rate: a number or a schedule of the step.
    beta1: decay of Adam's first moment.
    beta2: decay of Adam's second moment.
    epsilon: added to the root of the second moment.
    conv_l2: L2 factor, added to the gradient of convolution kernels after clipping.
    max_gradient_norm: clip threshold of the global norm of the whole gradient.
  """
  adam = functools.partial(optax.adam, learning_rate, b1=beta1, b2=beta2, eps=epsilon)
  by_label: dict[Hashable, optax.GradientTransformation] = {
      "conv_kernel": optax.chain(optax.add_decayed_weights(conv_l2), adam()),
      "other_weight": adam(),
      "step_size": adam(),
  }
  return optax.chain(
      optax.clip_by_global_norm(max_gradient_norm), optax.partition(by_label, weight_labels)
  )


def arch_optimizer(
    learning_rate: optax.ScalarOrSchedule, *, beta1: float, beta2: float, epsilon: float, l2: float
) -> optax.GradientTransformation:
  """Adam with L2 added to the gradient, for the tree of alphas {layer name: [B]} [C]."""
  return optax.chain(optax.add_decayed_weights(l2), optax.adam(learning_rate, b1=beta1, b2=beta2, eps=epsilon))


def cosine_schedule(learning_rate: float, final_learning_rate: float, num_steps: int) -> optax.Schedule:
  """Half a cosine from `learning_rate` to `final_learning_rate` over `num_steps` updates [C]; equal: constant."""
  return optax.cosine_decay_schedule(learning_rate, max(num_steps, 1), alpha=final_learning_rate / learning_rate)
