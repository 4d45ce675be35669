"""Every product of matrices of every step has the precision that the config says, gradients included."""

import jax
from jax.extend import core
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metamix_jax.method.precision import FULL_PRECISION, precision_at_width
from metamix_jax.models import create_network
from metamix_jax.nn.convolution import convolve, window_of
from metamix_jax.nn.scheme import Placement, QuantizationScheme
from metamix_jax.nn.tracing import trace_layers
from metamix_jax.training import parallel
from metamix_jax.training.context import prepare
from metamix_jax.training.state import Network, Teacher, create_arch_states, create_meta_state
from tests.helpers.configs import tiny_config

SHAPE, CLASSES = (8, 8, 1), 4
OPTIONS = {
    "mobilenet_v3_small": {"stem_stride": 1, "stem_channels": 8, "last_channels": 16, "blocks": (
        (3, 16, 16, True, "relu", 1), (5, 32, 24, True, "hard_swish", 2))},
    "resnet18": {}}


def precisions(jaxpr):
  """Yields the precision of each product in a program, in loops, branches and mapped functions too."""
  for equation in jaxpr.eqns:
    if equation.primitive.name in ("dot_general", "conv_general_dilated"):
      yield equation.params["precision"]
    for parameter in jax.tree.leaves(
        equation.params, is_leaf=lambda leaf: isinstance(leaf, (core.Jaxpr, core.ClosedJaxpr))):
      if isinstance(parameter, core.ClosedJaxpr):
        yield from precisions(parameter.jaxpr)
      elif isinstance(parameter, core.Jaxpr):
        yield from precisions(parameter)


def products(program, *arguments):
  """Returns the precision of each product that a program traces, one for both factors."""
  found = list(precisions(jax.make_jaxpr(program)(*arguments).jaxpr))
  assert found
  return [factor for pair in found for factor in (pair if isinstance(pair, tuple) else (pair,))]


@pytest.mark.parametrize("name, precision", [
    ("mobilenet_v3_small", "highest"), *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ("mobilenet_v3_small", "default"), ("mobilenet_v3_small", "high"), ("resnet18", "highest")))])
def test_every_product_of_every_step(name, precision):
  programs = parallel.make_programs(jax.devices()[:1], matmul_precision=precision)
  module = create_network(name, CLASSES, QuantizationScheme((3, 8), 4, 8, Placement("batch", depthwise="native")),
                          OPTIONS[name])
  network = Network(module, trace_layers(module, SHAPE), (0.5,), (0.3,), 1e-6)
  optimizer = optax.sgd(1.0)
  meta = create_meta_state(network, optimizer, SHAPE, seed=0)
  teacher = Teacher(meta.weights, meta.batch_stats, network, "float32")
  meta = meta.with_activation_step_sizes({layer.name: np.float32(1) for layer in network.layers})
  meta = meta.with_weight_step_sizes().with_optimizer(optimizer)
  archs = create_arch_states(
      network, optimizer, seed=0, initial_std=1e-3, targets_gbops=(1e-4,), penalty_weights=(1.0,))
  batch = parallel.split_batch({
      "image": np.zeros((2, *SHAPE), np.uint8), "label": np.zeros(2, np.int32), "mask": np.ones(2, np.float32),
      "target": np.full((2, CLASSES), 1 / CLASSES, np.float32)}, 1)
  assigned = precision_at_width(network.layers, np.int32(0))
  expected = jax.lax.Precision[precision.upper()]
  for program, *arguments in (
      (programs.teacher_targets, teacher, batch), (programs.weight_step, meta, assigned, batch),
      (programs.weight_step, meta, FULL_PRECISION, batch), (programs.bit_meta_step, meta, batch),
      (programs.bit_search_steps, archs, meta, batch), (programs.evaluation_step, meta, assigned, batch),
      (programs.calibration_step, meta, batch), (programs.batch_moments_step, meta, assigned, batch)):
    assert set(products(program, *arguments)) == {expected}


def test_the_config_says_which(data_dir):
  config = tiny_config(data_dir)
  for precision in ("highest", "default"):
    config.matmul_precision = precision
    context = prepare(config)
    meta = create_meta_state(context.network, optax.identity(), context.data.image_shape, 0).without_optimizer()
    batch = next(context.place(context.data.evaluation_batches()))
    found = products(context.programs.evaluation_step, meta, FULL_PRECISION, batch)
    assert set(found) == {jax.lax.Precision[precision.upper()]}


def test_on_cpus_no_bit_changes():
  rng = np.random.default_rng(0)
  x, kernel = rng.normal(size=(4, 16, 16, 8)).astype(np.float32), rng.normal(size=(3, 3, 8, 16)).astype(np.float32)
  dense, window = rng.normal(size=(16, 10)).astype(np.float32), window_of((16, 16), (3, 3), 2)

  def loss(x, kernel, dense):
    return jnp.sum(jnp.tanh(jnp.mean(convolve(x, kernel, window), axis=(1, 2)) @ dense))

  results = []
  for precision in ("default", "highest"):
    with jax.default_matmul_precision(precision):
      results.append(jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(x, kernel, dense))
  jax.tree.map(np.testing.assert_array_equal, *results)
