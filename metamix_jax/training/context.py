"""The context of a run: a checked config, its data, its networks, its optimisers, the steps mapped over the devices."""

from collections.abc import Callable, Iterator
import dataclasses
import functools
from typing import Any, TypeAlias

import jax
import ml_collections
import numpy as np
import optax

from metamix_jax import config as config_rules
from metamix_jax.config import LABELS, RANDOM_WEIGHTS, STUDENT
from metamix_jax.errors import UserError
from metamix_jax.method.bops import attainable_range
from metamix_jax.models import create_network, pretrained
from metamix_jax.models.network import Network
from metamix_jax.nn.batch_norm import check_batch_norm
from metamix_jax.nn.scheme import LSQ, Placement, QuantizationScheme, Quantizer
from metamix_jax.nn.tracing import trace_layers
from metamix_jax.records import names, paths, selected_bits
from metamix_jax.training import parallel
from metamix_jax.training.optimizers import arch_optimizer, weight_optimizer
from metamix_jax.training.steps import AXIS

MakeOptimizer: TypeAlias = Callable[[optax.ScalarOrSchedule], optax.GradientTransformation]


@dataclasses.dataclass(frozen=True)
class TrainingContext:
  """What every phase needs and none changes; dataclasses.replace puts a fork's own part in the place of one of ours.

  Attributes:
    config: a validated config.
    data: the training and evaluation batches: a data.DataSource, or an object like it.
    network: the network to train.
    teacher_network: a teacher of its own, or None.
    programs: the steps, mapped over devices.
    weight_optimizer: (learning rate or schedule) -> Optax transformation of weights and step sizes.
    arch_optimizer: (learning rate or schedule) -> Optax transformation of alpha.
  """

  config: ml_collections.ConfigDict
  data: Any
  network: Network
  teacher_network: Network | None
  programs: parallel.Programs
  weight_optimizer: MakeOptimizer
  arch_optimizer: MakeOptimizer

  def place(self, batches: Iterator[dict[str, np.ndarray]]) -> Iterator[dict[str, jax.Array]]:
    """Returns batches on the devices of this process, with a leading device axis, a few ahead of their use."""
    return parallel.place_batches(batches, self.programs.devices)

  def replicate(self, state: Any) -> Any:
    """Returns a state placed as the programs return it."""
    return parallel.replicate(state, self.programs.devices)


def prepare(config: ml_collections.ConfigDict, quantizer: Quantizer = LSQ) -> TrainingContext:
  """Checks a config and builds what the phases need; compiles nothing.

  Args:
    config: a config.
    quantizer: the functions that quantise.

  Raises:
    UserError: one sentence naming what is wrong with the config or its data.
  """
  config_rules.validate(config)
  config = paths.expand_paths(config)
  for name in ("batch_size", "evaluation_batch_size"):
    config_rules.check_batch_size(name, config[name], jax.device_count())
  _check_networks(config)  # A wrong name is found before TensorFlow is loaded.

  from metamix_jax import data  # Here, because TensorFlow takes seconds to load.
  source = data.open_source(config, jax.process_index(), jax.process_count())
  config_rules.check_batch_size("batch_size", config.batch_size, jax.device_count(), source.info.num_train)
  height, width, channels = source.image_shape
  for name in ("mean", "std"):
    if len(config.data[name]) != channels:
      raise UserError(f"config.data.{name} is {config.data[name]}; the images have {channels} channels.")
  network, teacher = build_networks(config, source.num_classes, channels, quantizer)
  check_batch_norm(network.module, (height, width, channels), AXIS)
  for target in names.targets(config):
    config_rules.check_target(target, attainable_range(network.layers))
  if config.bits_from is not None:
    selected_bits.read_selected_bits(config.bits_from, network.layers)
  return TrainingContext(
      config, source, network, teacher, parallel.make_programs(), make_weight_optimizer(config),
      make_arch_optimizer(config))


def make_weight_optimizer(config: ml_collections.ConfigDict) -> MakeOptimizer:
  """Returns a function that makes a config's weight-side optimiser from a learning rate or a schedule."""
  return functools.partial(weight_optimizer, **config.optimizer)


def make_arch_optimizer(config: ml_collections.ConfigDict) -> MakeOptimizer:
  """Returns a function that makes a config's optimiser of alpha from a learning rate or a schedule."""
  arch = config.arch
  return functools.partial(arch_optimizer, beta1=arch.beta1, beta2=arch.beta2, epsilon=arch.epsilon, l2=arch.l2)


def build_networks(
    config: ml_collections.ConfigDict, num_classes: int, channels: int, quantizer: Quantizer = LSQ
) -> tuple[Network, Network | None]:
  """The network to train and, where the config names one of its own, the teacher's.

  Args:
    config: a validated config.
    num_classes: outputs.
    channels: of the images.
    quantizer: the functions that quantise.

  Raises:
    UserError: one sentence naming what is wrong with a network's name or options.
  """
  scheme = _quantization_scheme(config, quantizer)
  module = create_network(config.network.name, num_classes, scheme, config.network.options.to_dict())
  layers = trace_layers(module, (config.data.image_size, config.data.image_size, channels))
  network = Network(
      module, layers, config.data.mean, config.data.std, config.quantization.step_size_floor,
      config.compute_dtype)
  if config.teacher.name in (STUDENT, LABELS):
    return network, None
  module = create_network(config.teacher.name, num_classes, scheme, config.teacher.options.to_dict(), "teacher")
  return network, dataclasses.replace(network, module=module, layers=())


def networks_without_data(config: ml_collections.ConfigDict) -> tuple[Network, Network | None]:
  """As `build_networks`, from a config alone; the data set need not be there.

  Raises:
    UserError: one sentence naming what is wrong with the config.
  """
  config_rules.validate(config)
  config = paths.expand_paths(config)
  from metamix_jax import data  # Here, because TensorFlow takes seconds to load.
  return build_networks(config, *data.classes_and_channels(config.data.name, config.data.data_dir))


def _quantization_scheme(config, quantizer=LSQ):
  section = config.quantization
  placement = Placement(AXIS, config.network.synchronized_batch_norm, section.depthwise)
  return QuantizationScheme(section.candidate_bits, section.weight_bits, section.fixed_bits, placement, quantizer)


def _check_networks(config):
  """The names, options and weight files of student and teacher, one sentence for what is wrong."""
  scheme = _quantization_scheme(config)
  for section, weights in (("network", config.pretraining.weights), ("teacher", config.teacher.weights)):
    if section == "teacher" and config.teacher.name in (STUDENT, LABELS):
      continue
    create_network(config[section].name, 2, scheme, config[section].options.to_dict(), section)
    if weights is not None and weights != RANDOM_WEIGHTS:
      pretrained.check_exists(weights, config[section].name)
