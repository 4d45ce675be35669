"""What a finished bit selection left in the folder of its run: the meta-state, and alpha of every target.

  DIR/checkpoints/pretraining           the full-precision network
  DIR/checkpoints/bit_selection         the meta-state
  DIR/checkpoints/bit_selection.json    alpha

All three stay after the run. Nothing here writes to the folder.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metamix_jax.errors import UserError
from metamix_jax.nn.scheme import LSQ, Quantizer
from metamix_jax.records.alpha import BIT_SELECTION, check_saved_search, read_alpha
from metamix_jax.records.cost_tables import check_costs
from metamix_jax.records.saved_arrays import DifferentTree, restore, words_of
from metamix_jax.records.workdir import check_data, check_quantizer, load_config_of_run
from metamix_jax.training.context import TrainingContext, prepare
from metamix_jax.training.state import MetaState, create_meta_state


def open_run(workdir: pathlib.Path, quantizer: Quantizer = LSQ) -> TrainingContext:
  """Builds the context of the run in a folder from its config.json, for what looks at the run afterwards.

  Args:
    workdir: DIR of the run.
    quantizer: the functions that the run quantised with.

  Raises:
    UserError: the folder does not hold a run; or its data, its cost tables or its quantiser are others than they were.
  """
  context = prepare(load_config_of_run(workdir), quantizer)
  check_run(context, workdir)
  return context


def check_run(context: TrainingContext, workdir: pathlib.Path) -> None:
  """Checks that what is outside of the config is as it was when the run in a folder began; UserError as `open_run`."""
  check_data(workdir, context.data.description)
  check_costs(workdir, context.network.layers, context.limits.sums)
  check_quantizer(workdir, context.quantizer)


@dataclasses.dataclass(frozen=True)
class SavedSearch:
  """Holds the result of a finished bit selection.

  Attributes:
    meta: the meta-state, replicated over the devices, without an optimiser.
    alpha: {target in GBOPs of one image: {layer name: [B] float32}}, targets ascending.
  """

  meta: MetaState
  alpha: dict[float, dict[str, np.ndarray]]


def load_search(context: TrainingContext, workdir: pathlib.Path) -> SavedSearch:
  """Loads the meta-state and alpha of every target from the folder of a run whose bit selection is finished.

  Bits for a target that the run did not have follow from them (method.selection.select_within_target), and so does
  their accuracy straight from the meta-state (training.evaluation.evaluate_bits).

  Args:
    context: of a config with the network and the candidate bit-widths of the run.
    workdir: DIR of the run.

  Raises:
    UserError: the bit selection of this folder is not finished or had its bits from a file, or its files are damaged or
      of another network.
  """
  workdir = pathlib.Path(workdir)
  return SavedSearch(load_meta_state(context, workdir), read_alpha(workdir, context.network.layers))


def load_meta_state(context: TrainingContext, workdir: pathlib.Path) -> MetaState:
  """Loads the meta-state from the folder of a run whose bit selection is finished.

  Args:
    context: of a config with the network and the candidate bit-widths of the run.
    workdir: DIR of the run.

  Returns:
    The meta-state, replicated over the devices, at step 0 and without an optimiser.

  Raises:
    UserError: the bit selection of this folder is not finished, or its files are damaged or of another network.
  """
  def start():
    scalars = {layer.name: jnp.zeros((), jnp.float32) for layer in context.network.layers}
    return _start(context).with_activation_step_sizes(scalars)

  check_saved_search(workdir, context.network.layers)
  return _load(context, workdir / BIT_SELECTION.with_suffix(""), start)


def load_trained(context: TrainingContext, workdir: pathlib.Path, phase: str) -> MetaState:
  """Loads the network at the end of a stage of weight training, as `load_meta_state`.

  Args:
    context: of a config with the network and the candidate bit-widths of the run.
    workdir: DIR of the run.
    phase: its name, such as "stage_b" or "stage_a_0.025".
  """
  def start():
    scalars = {layer.name: jnp.zeros((), jnp.float32) for layer in context.network.layers}
    meta = _start(context).with_activation_step_sizes(scalars)
    return meta.with_weight_step_sizes() if phase.startswith("stage_b") else meta.without_weight_step_sizes()

  check_saved_search(workdir, context.network.layers)
  return _load(context, workdir / BIT_SELECTION.with_name(phase), start)


def load_full_precision(context: TrainingContext, workdir: pathlib.Path) -> MetaState:
  """Loads the full-precision network that a run with a finished bit selection started from, as `load_meta_state`."""
  check_saved_search(workdir, context.network.layers)
  return _load(context, workdir / BIT_SELECTION.with_name("pretraining"), lambda: _start(context))


def _start(context):
  return create_meta_state(
      context.network, optax.identity(), context.data.image_shape, context.config.seed).without_optimizer()


def _load(context, folder, start):
  """Loads a finished phase into the state whose shapes `start` makes; raises UserError if it does not fit them."""
  folder = folder.absolute()
  meta: Any = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(start))
  like = {"weights": meta.weights, "step_sizes": meta.step_sizes, "batch_stats": meta.batch_stats}
  try:
    saved = restore(folder, like)
  except DifferentTree as difference:
    raise UserError(f"{folder} is of another network: {difference}.") from difference
  except Exception as error:  # Orbax and TensorStore raise several types for missing and damaged trees.
    raise UserError(f"{folder} cannot be read ({words_of(error)}); it is damaged.") from error
  return context.replicate(meta.replace(**saved, seed=np.uint32(context.config.seed)))
