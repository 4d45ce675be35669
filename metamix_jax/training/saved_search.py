"""What a finished bit selection left in the folder of its run: the meta-state, and alpha of every target.

DIR/checkpoints/bit_selection has the meta-state, and DIR/checkpoints/bit_selection.json has alpha. Both stay after the
run. Nothing here writes to the folder.
"""

import dataclasses
import json
import pathlib

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

from metamix_jax.errors import UserError
from metamix_jax.records.alpha import BIT_SELECTION, read_alpha
from metamix_jax.records.results import parse_results
from metamix_jax.training.context import TrainingContext
from metamix_jax.training.state import MetaState, create_meta_state

# What the step sizes and the alpha of a layer depend on; a cost or another image size changes neither.
LAYER_FACTS = ("name", "candidate_bits", "input_range")


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
  check_saved_search(context, workdir)
  meta = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), _shapes(context))
  like = {"weights": meta.weights, "step_sizes": meta.step_sizes, "batch_stats": meta.batch_stats}
  folder = (workdir / BIT_SELECTION.with_suffix("")).absolute()
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      saved = checkpointer.restore(folder, like)
  except Exception as error:  # Orbax and TensorStore raise several types for missing, damaged and unequal trees.
    raise UserError(
        f"the meta-state in {folder} cannot be read ({str(error).splitlines()[0].rstrip('.')}); it is damaged, or of "
        "another network.") from error
  wanted = traverse_util.flatten_dict(like, sep="/")
  for name, values in traverse_util.flatten_dict(saved, sep="/").items():
    if (values.shape, values.dtype) != (wanted[name].shape, wanted[name].dtype):
      raise UserError(
          f"the meta-state in {folder} is of another network: {name} is {values.dtype} {list(values.shape)} there and "
          f"{wanted[name].dtype} {list(wanted[name].shape)} here.")
  return context.replicate(meta.replace(**saved, seed=np.uint32(context.config.seed)))


def check_saved_search(context: TrainingContext, workdir: pathlib.Path) -> None:
  """Checks, in a moment, that a folder holds a finished bit selection of the network of a context.

  Raises:
    UserError: it does not; the sentence names the folder and the first layer that differs.
  """
  if not (workdir / BIT_SELECTION).exists():
    raise UserError(
        f"{workdir} has no {BIT_SELECTION}; allowed is the folder of a run whose bit selection is finished.")
  path = workdir / "network.json"
  saved = parse_results(path, lambda: [
      tuple(layer[fact] for fact in LAYER_FACTS) for layer in json.loads(path.read_text(encoding="utf-8"))["layers"]])
  here = [(layer.name, list(layer.candidate_bits), layer.input_range) for layer in context.network.layers]
  for there, layer in zip(saved, here, strict=False):
    if there != layer:
      raise UserError(
          f"the run in {workdir} has another network: its layer {there[0]} ({_words(there)}) stands where layer "
          f"{layer[0]} ({_words(layer)}) is here.")
  if len(saved) != len(here):
    raise UserError(f"the run in {workdir} has another network: {len(saved)} layers there and {len(here)} here.")


def _words(facts):
  return f"candidates {', '.join(map(str, facts[1]))}, input {facts[2]}"


def _shapes(context):
  """Returns the shapes of a meta-state with activation step sizes."""
  def start():
    meta = create_meta_state(context.network, optax.identity(), context.data.image_shape, 0).without_optimizer()
    return meta.with_activation_step_sizes(
        {layer.name: jnp.zeros((), jnp.float32) for layer in context.network.layers})

  return jax.eval_shape(start)
