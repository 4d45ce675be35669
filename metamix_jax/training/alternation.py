"""The steps of a search on one batch (M12): beside bit-meta training, which a fork may replace, or by itself."""

from collections.abc import Callable
from typing import TypeAlias

import jax

from metamix_jax.training.parallel import Programs
from metamix_jax.training.state import ArchState, MetaState

Batch: TypeAlias = dict[str, jax.Array]
Metrics: TypeAlias = dict[str, jax.Array]
# (programs, meta-state, K architecture states, batch with targets) -> (meta-state, architecture states, metrics). The
# metrics are {"loss": scalar, "gbops": [K], "search_loss": [K]}, and perhaps "loss_by_candidate", [B].
Alternation: TypeAlias = Callable[[Programs, MetaState, ArchState, Batch], tuple[MetaState, ArchState, Metrics]]


def alternate(
    programs: Programs, meta: MetaState, archs: ArchState, batch: Batch
) -> tuple[MetaState, ArchState, Metrics]:
  """Takes one bit-meta step (M10), then one bit-search step (M11) of every target on the new meta-state.

  Args:
    programs: the steps, mapped over the devices.
    meta: the meta-state; its buffers are donated, so do not use it again.
    archs: alpha of K targets, stacked on a leading axis [K]; donated likewise.
    batch: with its targets.

  Returns:
    Both states after the batch; {"loss", "loss_by_candidate"} of the bit-meta step, and of the search "gbops" in GBOPs
    of one image and the task loss "search_loss" in nats, [K] each.
  """
  meta, metrics = programs.bit_meta_step(meta, batch)
  archs, search = programs.bit_search_steps(archs, meta, batch)
  return meta, archs, metrics | {"gbops": search["gbops"], "search_loss": search["task_loss"]}


def search_alone(
    programs: Programs, meta: MetaState, archs: ArchState, batch: Batch
) -> tuple[MetaState, ArchState, Metrics]:
  """Takes one bit-search step (M11) of every target on a meta-state that is not trained any more.

  Args:
    programs: the steps, mapped over the devices.
    meta: the meta-state; only its step counts on, on which dropout depends.
    archs: alpha of K targets, stacked on a leading axis [K]; their buffers are donated, so do not use them again.
    batch: with its targets.

  Returns:
    Both states after the batch; "gbops" and "search_loss" as of `alternate`, and "loss", the mean of "search_loss".
  """
  meta = meta.replace(step=meta.step + 1)
  archs, search = programs.bit_search_steps(archs, meta, batch)
  task_loss = search["task_loss"]
  return meta, archs, {"loss": task_loss.mean(), "gbops": search["gbops"], "search_loss": task_loss}
