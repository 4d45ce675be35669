"""Checks the input ranges that a network declares (M3) against what its layers read."""

import jax

from metamix_jax.errors import UserError
from metamix_jax.method.quantizers import input_shift, lowest_input
from metamix_jax.training.context import TrainingContext
from metamix_jax.training.state import MetaState

# Of the mean magnitude with its shift: far above the rounding of float32, far below half a step of 8 bits.
ROUNDING = 1e-5


def check_input_ranges(context: TrainingContext, meta: MetaState) -> None:
  """Runs the first batch through the network and compares the lowest input of each layer with its declared range [A].

  Quantisation clips what lies below the range, so a layer that is declared "unsigned" and reads negative values would
  silently act as if a ReLU stood before it.

  Args:
    context: of the run.
    meta: the network after pretraining.

  Raises:
    UserError: a layer reads values below its range; the sentence names the first such layer, the value and the remedy.
  """
  batch = next(context.place(context.data.train_epoch(0)))
  read = jax.device_get(context.programs.input_range_step(meta.without_optimizer(), batch))
  for layer in (layer for layer in context.network.layers if layer.quantized):
    minimum, lowest = float(read["minimum"][layer.name]), lowest_input(layer.input_range)
    scale = float(read["mean_magnitude"][layer.name]) + input_shift(layer.input_range)
    if minimum < lowest - ROUNDING * scale:
      raise UserError(
          f"layer {layer.name} reads values down to {minimum:.6g}, but its input_range is {layer.input_range!r}, which "
          f"is {lowest:g} and above; declare 'signed', or let the activation that was declared stand before it.")
