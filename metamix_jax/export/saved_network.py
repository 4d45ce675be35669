"""A finished run read back: the network that a target was trained to, and the images that evaluate it."""

from collections.abc import Iterator, Mapping
import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metamix_jax import config as config_rules
from metamix_jax.errors import UserError
from metamix_jax.method.bops import complete_bits, cost_name, cost_unit, gbops, in_bops
from metamix_jax.models.network import Network
from metamix_jax.nn.scheme import LSQ
from metamix_jax.records.cost_tables import check_costs
from metamix_jax.records.limits import read_limits
from metamix_jax.records.names import format_target, name_for_target, targets
from metamix_jax.records.paths import expand_paths
from metamix_jax.records.results import BitSelection, parse_results
from metamix_jax.records.saved_arrays import restore, words_of
from metamix_jax.records.workdir import check_data, check_quantizer, load_config_of_run
from metamix_jax.training.context import build_networks


@dataclasses.dataclass(frozen=True)
class SavedNetwork:
  """Holds a trained network and what evaluates it.

  Attributes:
    network: the static part, in float32 and without an axis over devices.
    variables: its collections params, batch_stats and step_sizes, host arrays.
    bits: activation bits of every quantised layer, in network order.
    image_shape: (H, W, C).
    data: its evaluation_batches() yield {"image", "label", "mask"}.
    facts: what the files of an export say about the run: its folder's name, network, target and cost, the latter two
      in the unit of the run's cost; and its GBOPs.
  """

  network: Network
  variables: Mapping[str, Any]
  bits: Mapping[str, int]
  image_shape: tuple[int, int, int]
  data: Any
  facts: Mapping[str, Any]

  def evaluation_images(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (images [N, H, W, C] uint8, labels [N]) of the evaluation split, without padding."""
    for batch in self.data.evaluation_batches():
      real = np.asarray(batch["mask"]) > 0
      yield np.asarray(batch["image"], np.uint8)[real], np.asarray(batch["label"])[real]


def read(workdir: pathlib.Path, target: float | None = None) -> SavedNetwork:
  """Reads a run; changes none of its files.

  Args:
    workdir: DIR.
    target: one of the run's, in GBOPs or the unit of its cost; None: its only one.

  Raises:
    UserError: the folder holds no run, one that did not finish stage B for the target, or a damaged file; or the data
      or a table of costs changed since the run.
  """
  config = load_config_of_run(workdir)
  config_rules.validate(config)
  config = expand_paths(config)
  chosen = _chosen_target(workdir, targets(config), target)
  phase = name_for_target("stage_b", chosen, targets(config))
  checkpoints = workdir / "checkpoints"
  if not (checkpoints / f"{phase}.json").exists():
    raise UserError(
        f"{workdir} was not trained to stage B for the target {format_target(chosen)}: "
        f"{checkpoints / phase}.json is not there, and the weights are not quantised; finish the run first.")

  from metamix_jax import data  # Here, because TensorFlow takes seconds to load.
  source = data.open_source(config, 0, 1)
  if (workdir / "data.json").exists():
    check_data(workdir, source.description)
  check_quantizer(workdir, LSQ)  # Other functions may mean other codes.
  network, _ = build_networks(config, source.num_classes, source.image_shape[-1])
  network = without_axis(network)
  for layer in network.layers:
    if not layer.quantized:
      raise UserError(
          f"layer {layer.name} of the run in {workdir} is in full precision (config.quantization.layer_bits), which "
          "cannot be exported; allowed are networks whose layers are all quantised.")
    if layer.candidate_weight_bits:
      raise UserError(
          f"the run in {workdir} searched bits of weights (config.quantization.candidate_weight_bits), which cannot be "
          "exported yet; allowed are runs that searched those of activations alone.")
  check_costs(
      workdir, network.layers, read_limits(network.layers, config.arch.at_most or (), "config.arch.at_most").sums)
  bits = _read_bits(checkpoints / "bit_selection.json", network.layers, config.arch.target_tolerance, chosen)
  saved = _restore_phase(checkpoints / phase, network, source.image_shape)
  facts = {
      "run": workdir.absolute().name, "network": config.network.name, "data": config.data.name,
      "evaluation_split": config.data.evaluation_split, "cost_name": cost_name(network.layers),
      "cost_unit": cost_unit(network.layers), "target": chosen, "cost": gbops(network.layers, bits),
      "gbops": gbops(in_bops(network.layers), bits)}
  variables = {"params": saved["weights"], "batch_stats": saved["batch_stats"], "step_sizes": saved["step_sizes"]}
  return SavedNetwork(network, variables, bits, source.image_shape, source, facts)


def without_axis(network: Network) -> Network:
  """Returns a network that runs outside of the training programs: without an axis over devices, in float32."""
  scheme = network.module.scheme  # Every network has it (models.create_network).
  placement = dataclasses.replace(scheme.placement, axis_name=None)
  module = network.module.clone(scheme=dataclasses.replace(scheme, placement=placement))
  return dataclasses.replace(network, module=module, dtype="float32")


def _chosen_target(workdir, all_targets, target):
  if target is None:
    if len(all_targets) == 1:
      return all_targets[0]
  else:
    for known in all_targets:
      if format_target(known) == format_target(target):
        return known
  raise UserError(
      f"{'no --target is given' if target is None else f'--target is {format_target(target)}'}, and {workdir} has the "
      f"targets {', '.join(map(format_target, all_targets))}; choose one of them.")


def _read_bits(path, layers, tolerance, target):
  """Returns the bits of every quantised layer that a file of the bit selection has for a target."""
  def parse():
    selection = BitSelection.from_json(json.loads(path.read_text(encoding="utf-8")), layers, tolerance)
    found = [result for result in selection.targets if result.target_gbops == target]
    if len(found) != 1:
      raise ValueError(f"it has {len(found)} selections for the target {format_target(target)}, not one")
    return found[0]

  return complete_bits(layers, parse_results(path, parse).bits)


def _restore_phase(path, network, image_shape):
  """Returns {"weights", "batch_stats", "step_sizes"} of a finished phase of stage B, host arrays."""
  image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  like = jax.eval_shape(lambda x: network.module.init(
      jax.random.key(0), x, train=False, mutable=("params", "batch_stats")), image)
  step_sizes = {}
  for layer in network.layers:
    kernel, node = like["params"], step_sizes
    for part in layer.name.split("/"):
      kernel, node = kernel[part], node.setdefault(part, {})
    node["activation"] = jax.ShapeDtypeStruct((len(layer.candidate_bits),), jnp.float32)
    node["weight"] = jax.ShapeDtypeStruct(kernel["kernel"].shape[-1:], jnp.float32)
  tree = {"weights": like["params"], "batch_stats": like.get("batch_stats", {}), "step_sizes": step_sizes}
  try:
    return jax.tree.map(np.asarray, restore(path.absolute(), tree))
  except Exception as error:  # Orbax and TensorStore raise several types for missing and damaged files.
    raise UserError(f"{path} cannot be read ({words_of(error)}); it is damaged, or of another network.") from error
