"""The context of a run: a checked config, its data, its networks, its optimisers, the steps mapped over the devices."""

from collections.abc import Callable, Iterator
import dataclasses
import functools
import logging
import pathlib
from typing import Any, TypeAlias

from flax import traverse_util
import jax
import ml_collections
import numpy as np
import optax

from metamix_jax import config as config_rules
from metamix_jax.config import LABELS, RANDOM_WEIGHTS, STUDENT
from metamix_jax.errors import UserError
from metamix_jax.method.bops import attainable_range, cost_unit
from metamix_jax.method.layer_bits import patterns_that_match_nothing
from metamix_jax.models import create_network, pretrained
from metamix_jax.models.network import Network
from metamix_jax.nn.scheme import LSQ, Placement, QuantizationScheme, Quantizer
from metamix_jax.nn.tracing import check_evaluation, check_training, trace_network
from metamix_jax.records import names, paths, selected_bits
from metamix_jax.records.alpha import check_saved_search
from metamix_jax.records.cost_tables import with_costs
from metamix_jax.records.limits import Limits, read_limits
from metamix_jax.training import parallel
from metamix_jax.training.alternation import Alternation, alternate
from metamix_jax.training.optimizers import arch_optimizer, weight_optimizer
from metamix_jax.training.saved_programs import with_saved_programs
from metamix_jax.training.steps import AXIS

MakeOptimizer: TypeAlias = Callable[[optax.ScalarOrSchedule], optax.GradientTransformation]


@dataclasses.dataclass(frozen=True)
class TrainingContext:
  """Holds what every phase needs and no phase changes; a fork replaces one part with dataclasses.replace.

  Attributes:
    config: a validated config.
    data: the training and evaluation batches: a data.DataSource, or an object like it.
    network: the network to train.
    teacher_network: the teacher where it is another network than the student; None otherwise.
    programs: the steps, mapped over the devices.
    weight_optimizer: (learning rate or schedule) -> Optax transformation of weights and step sizes.
    arch_optimizer: (learning rate or schedule) -> Optax transformation of alpha.
    alternation: the steps on each batch of the search.
    limits: on costs besides the target's, for the search and the selection.
    quantizer: the functions that quantise, which the network's layers have; the folder of a run keeps their names.
  """

  config: ml_collections.ConfigDict
  data: Any
  network: Network
  teacher_network: Network | None
  programs: parallel.Programs
  weight_optimizer: MakeOptimizer
  arch_optimizer: MakeOptimizer
  alternation: Alternation = alternate
  limits: Limits = Limits()
  quantizer: Quantizer = LSQ

  def place(self, batches: Iterator[dict[str, np.ndarray]]) -> Iterator[dict[str, jax.Array]]:
    """Moves batches [N, ...] to the devices of this process, [devices, N / devices, ...], a few ahead of their use."""
    return parallel.place_batches(batches, self.programs.devices)

  def replicate(self, state: Any) -> Any:
    """Returns a state replicated over the devices, as the programs return it."""
    return parallel.replicate(state, self.programs.devices)


def prepare(
    config: ml_collections.ConfigDict, quantizer: Quantizer = LSQ, steps: parallel.Steps = parallel.STEPS,
    programs_folder: pathlib.Path | None = None,
) -> TrainingContext:
  """Checks a config and builds what the phases need; compiles nothing.

  Args:
    config: a config.
    quantizer: the functions that quantise.
    steps: of one replica.
    programs_folder: where compiled programs are kept (saved_programs.py); None: nowhere.

  Raises:
    UserError: the config or its data are wrong; one sentence names the field, its value and what is allowed.
  """
  config_rules.validate(config)
  config = paths.expand_paths(config)
  for name in ("batch_size", "evaluation_batch_size"):
    config_rules.check_batch_size(name, config[name], jax.device_count())
  _check_networks(config)  # A wrong name is found before TensorFlow is loaded.

  from metamix_jax import data  # Here, because TensorFlow takes seconds to load.
  source = data.open_source(config, jax.process_index(), jax.process_count())
  config_rules.check_batch_size("batch_size", config.batch_size, jax.device_count(), source.info.num_train)
  channels = source.image_shape[-1]
  for name in ("mean", "std"):
    if len(config.data[name]) != channels:
      raise UserError(f"config.data.{name} is {config.data[name]}; the images have {channels} channels.")
  network, teacher = build_networks(config, source.num_classes, channels, quantizer)
  limits = read_limits(network.layers, config.arch.at_most or (), "config.arch.at_most")
  for target in names.targets(config):
    config_rules.check_target(target, attainable_range(network.layers), cost_unit(network.layers))
    limits.check(network.layers, target)
  _check_weights(config, network, teacher, source.image_shape)
  if config.bits_from is not None:
    selected_bits.read_selected_bits(config.bits_from, network.layers)
  if config.meta_state_from is not None:
    check_saved_search(pathlib.Path(config.meta_state_from), network.layers)
  programs = parallel.make_programs(functions=steps, matmul_precision=config.matmul_precision)
  if programs_folder is not None:
    programs = with_saved_programs(programs, programs_folder)
  return TrainingContext(
      config, source, network, teacher, programs, make_weight_optimizer(config), make_arch_optimizer(config),
      limits=limits, quantizer=quantizer)


def make_weight_optimizer(config: ml_collections.ConfigDict) -> MakeOptimizer:
  """Returns a function that makes a config's weight-side optimiser from a learning rate or a schedule."""
  return functools.partial(weight_optimizer, **config.optimizer)


def make_arch_optimizer(config: ml_collections.ConfigDict) -> MakeOptimizer:
  """Returns a function that makes a config's optimiser of alpha from a learning rate or a schedule."""
  arch = config.arch
  return functools.partial(arch_optimizer, beta1=arch.beta1, beta2=arch.beta2, epsilon=arch.epsilon, l2=arch.l2)


def penalty_weights(config: ml_collections.ConfigDict) -> tuple[float, ...]:
  """Returns lambda of M11 for each target of a config, in nats for one GBOP."""
  arch = config.arch
  if arch.penalty_weight is not None:
    return (arch.penalty_weight,) * len(names.targets(config))
  return tuple(arch.relative_penalty_weight / target for target in names.targets(config))


def build_networks(
    config: ml_collections.ConfigDict, num_classes: int, channels: int, quantizer: Quantizer = LSQ
) -> tuple[Network, Network | None]:
  """Builds the network to train, and the teacher's network if the config names another one.

  Args:
    config: a validated config.
    num_classes: number of outputs.
    channels: number of image channels.
    quantizer: the functions that quantise.

  Raises:
    UserError: the name or an option of a network is wrong, or the network cannot be searched and trained.
  """
  scheme = _quantization_scheme(config, quantizer)
  module = create_network(config.network.name, num_classes, scheme, config.network.options.to_dict())
  image_shape = (config.data.image_size, config.data.image_size, channels)
  traced = trace_network(module, image_shape)
  _check_layer_bits(scheme.layer_bits, traced.layers)
  check_training(traced, module, image_shape, AXIS)
  if not any(layer.searched for layer in traced.layers):
    raise UserError(
        f"config.network.name is {config.network.name!r}, which has no layer to search; at least one QuantConv or "
        "QuantDense must take `scheme` itself, not `scheme.fixed`, and keep two candidates in "
        "config.quantization.layer_bits.")
  if traced.uncounted:
    logging.getLogger("metamix_jax").warning(
        "In full precision, and not counted in GBOPs: %s (parameters outside of QuantConv and QuantDense).",
        ", ".join(traced.uncounted))
  network = Network(
      module, with_costs(config.arch.cost, traced.layers), config.data.mean, config.data.std,
      config.quantization.step_size_floor, config.compute_dtype)
  if config.teacher.name in (STUDENT, LABELS):
    return network, None
  module = create_network(config.teacher.name, num_classes, scheme, config.teacher.options.to_dict(), "teacher")
  check_evaluation(module, image_shape)
  return network, dataclasses.replace(network, module=module, layers=())


def networks_without_data(config: ml_collections.ConfigDict) -> tuple[Network, Network | None]:
  """Builds the networks as `build_networks` does, from a config alone; the data set need not exist on disk.

  Raises:
    UserError: the config is wrong, or its data set is unknown.
  """
  config_rules.validate(config)
  config = paths.expand_paths(config)
  from metamix_jax import data  # Here, because TensorFlow takes seconds to load.
  return build_networks(config, *data.classes_and_channels(config.data.name, config.data.data_dir))


def _quantization_scheme(config, quantizer=LSQ):
  section = config.quantization
  placement = Placement(AXIS, config.network.synchronized_batch_norm, section.depthwise)
  return QuantizationScheme(
      section.candidate_bits, section.weight_bits, section.fixed_bits, placement, quantizer,
      tuple(sorted((section.layer_bits or {}).items(), key=lambda item: item[0])), section.candidate_weight_bits or ())


def _check_layer_bits(layer_bits, layers):
  """Raises UserError for a pattern that matches no layer."""
  names = [layer.name for layer in layers]
  for pattern in patterns_that_match_nothing(layer_bits, names):
    raise UserError(
        f"config.quantization.layer_bits has the pattern {pattern!r}, which matches no layer; the layers are "
        f"{', '.join(names)}.")


def _check_networks(config):
  """Checks names, options and weight files of student and teacher; raises UserError."""
  scheme = _quantization_scheme(config)
  for section, weights in (("network", config.pretraining.weights), ("teacher", config.teacher.weights)):
    if section == "teacher" and config.teacher.name in (STUDENT, LABELS):
      continue
    create_network(config[section].name, 2, scheme, config[section].options.to_dict(), section)
    unused = section == "network" and config.meta_state_from is not None
    if weights is not None and weights != RANDOM_WEIGHTS and not unused:
      pretrained.check_exists(weights, config[section].name)


def _check_weights(config, network, teacher, image_shape):
  """Reads the files of weights: one that does not fit is refused before anything is trained."""
  if config.pretraining.weights is not None and config.meta_state_from is None:
    fresh = network.layers[-1].name if config.pretraining.new_classifier else None
    shapes = pretrained.variable_shapes(network.module, image_shape)
    if fresh is not None:
      _check_new_classifier(fresh, network, shapes["weights"])
    pretrained.load(config.pretraining.weights, config.network.name, shapes, fresh)
  if teacher is not None and config.teacher.weights != RANDOM_WEIGHTS:
    shapes = pretrained.variable_shapes(teacher.module, image_shape)
    pretrained.load(config.teacher.weights, config.teacher.name, shapes)


def _check_new_classifier(name, network, weights):
  """Raises UserError unless the quantised layer `name`, which is to start anew, is what returns the logits."""
  sizes, module = traverse_util.flatten_dict(weights, sep="/"), type(network.module).__name__
  outputs = sizes[f"{name}/kernel"].shape[-1]
  num_classes = getattr(network.module, "num_classes", outputs)
  if outputs != num_classes:
    raise UserError(
        f"config.pretraining.new_classifier is True, and {name}, the last quantised layer of {module}, has {outputs} "
        f"outputs; allowed is a network whose last quantised layer is its classifier, with {num_classes}.")
  quantized = {layer.name for layer in network.layers}
  for path, leaf in sizes.items():
    if leaf.ndim >= 2 and leaf.shape[-1] == num_classes and path.rpartition("/")[0] not in quantized:
      raise UserError(
          f"config.pretraining.new_classifier is True, and {path} of {module} has as many outputs as {name}, "
          f"{num_classes}; allowed is a network in which only a quantised layer can be the classifier.")
