"""What the bits of each layer cost by themselves, straight from the meta-state [A]: the way of most other systems."""

from collections.abc import Callable, Sequence
import pathlib

from metamix_jax.method.assignments import Bits
from metamix_jax.method.bops import LayerCost
from metamix_jax.records.progress import show_bar
from metamix_jax.training.context import TrainingContext
from metamix_jax.training.fingerprint import digest_of_state
from metamix_jax.training.judge import ScoreFile, training_judge
from metamix_jax.training.state import MetaState

# Of a run's folder: the losses that were measured, so that a later start does not measure them again.
FILE = "sensitivity.jsonl"


def measure_sensitivity(
    context: TrainingContext, meta: MetaState, workdir: pathlib.Path, judging_batches: int) -> dict[str, list[float]]:
  """Measures the losses of `losses_one_layer_at_a_time` on training images, and keeps them in DIR/sensitivity.jsonl.

  Args:
    context: of the run, in one process.
    meta: its meta-state.
    workdir: DIR.
    judging_batches: training batches to judge on; all of an epoch, if there are fewer.

  Returns:
    {layer name: [B]}, in nats.

  Raises:
    UserError: the batches that re-estimate batch statistics leave none.
  """
  judge = training_judge(context, meta, judging_batches)
  scores = ScoreFile(workdir / FILE, {
      "meta_state": digest_of_state(meta), "judging_batches": judging_batches,
      "reestimation_batches": context.config.reestimation_batches})
  return losses_one_layer_at_a_time(
      context.network.layers, lambda bits: scores.mean_scores("training batches", judge, bits)[0])


def losses_one_layer_at_a_time(
    layers: Sequence[LayerCost], loss_of: Callable[[Bits], float]) -> dict[str, list[float]]:
  """Measures what the bits of each layer cost by themselves, for `assign_by_sensitivity`.

  Args:
    layers: every quantised layer.
    loss_of: returns the loss of an assignment, in nats.

  Returns:
    {layer name: [B]}: the loss with this layer at each candidate, and all others at their middle one.
  """
  searched = [layer for layer in layers if layer.searched]
  middle = {layer.name: layer.candidate_bits[(len(layer.candidate_bits) - 1) // 2] for layer in searched}
  return {
      layer.name: [loss_of(middle | {layer.name: bits}) for bits in layer.candidate_bits]
      for layer in show_bar(searched, "sensitivity", len(searched), "layer")}
