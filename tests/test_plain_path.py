"""The project's own gradients against automatic differentiation and XLA's convolutions, through whole networks."""

import dataclasses
import functools

from flax import traverse_util
import jax
import numpy as np
import optax
import pytest

from metamix_jax.models import create_network
from metamix_jax.nn.scheme import LSQ, Placement, QuantizationScheme
from metamix_jax.nn.tracing import trace_layers
from metamix_jax.training import steps
from metamix_jax.training.state import Network, create_arch_states, create_meta_state
from tests.helpers.continuous_quantizer import CONTINUOUS
from tests.helpers.files import load_script

SHAPE, CLASSES, BATCH = (8, 8, 3), 4, 8
DATA_SEEDS = range(5)
ORDERS = 3  # Of the images, other than the first.
OPTIONS = {"stem_stride": 1, "stem_channels": 4, "blocks": ((1, 4, 1, 1), (2, 8, 1, 2)), "last_channels": 8}


def run(step, *arguments):
  """Takes a step of one replica operation by operation. Two networks then run the same programs wherever they have the
  same operations: no sum is in another order, and no value on the edge between two codes rounds the other way."""
  *states, batch = arguments
  with jax.disable_jit():
    result = jax.vmap(step, in_axes=(None,) * len(states) + (0,), axis_name=steps.AXIS)(
        *states, jax.tree.map(lambda leaf: leaf[None], batch))
  return jax.tree.map(lambda leaf: leaf[0], result)


@functools.cache
def start(data_seed):
  """A network, its state with quantised weights, an architecture state and a batch."""
  module = create_network(
      "mobilenet_v2", CLASSES, QuantizationScheme((3, 8), 4, 8, Placement(steps.AXIS)), OPTIONS)
  network = Network(module, trace_layers(module, SHAPE), (0.5,) * 3, (0.25,) * 3, 1e-6)
  batch = load_script("benchmarks/synthetic").create_batch(BATCH, SHAPE, CLASSES, data_seed)
  meta = create_meta_state(network, optax.trace(decay=0.9), SHAPE, seed=0)
  magnitudes = jax.jit(jax.vmap(steps.calibration_step, in_axes=(None, 0), axis_name=steps.AXIS))(
      meta, jax.tree.map(lambda leaf: leaf[None], batch))
  meta = meta.with_activation_step_sizes(jax.tree.map(lambda leaf: leaf[0], magnitudes)).with_weight_step_sizes()
  # Powers of two: a product with the reciprocal, which XLA may make of a plain division, is then exact as well.
  meta = meta.replace(step_sizes=jax.tree.map(lambda s: 2.0 ** np.round(np.log2(s)), meta.step_sizes))
  arch = create_arch_states(
      network, optax.trace(decay=0.9), seed=0, initial_std=0.5, targets_gbops=(1e-3,), penalty_weights=(1.0,))
  return network, jax.device_get(meta.with_optimizer(meta.optimizer)), jax.device_get(arch), batch


def gradients(quantizer, depthwise, data_seed, order=slice(None)):
  """Losses and gradients of one bit-meta and one bit-search step, {path: array}; `order` is that of the images."""
  network, meta, arch, batch = start(data_seed)
  batch = jax.tree.map(lambda leaf: leaf[order], batch)
  scheme = dataclasses.replace(
      network.module.scheme, quantizer=quantizer, placement=Placement(steps.AXIS, depthwise=depthwise))
  meta = meta.replace(network=dataclasses.replace(network, module=network.module.clone(scheme=scheme)))
  new_meta, metrics = run(steps.bit_meta_step, meta, batch)
  new_arch, search = run(steps.bit_search_steps, arch, meta, batch)
  result = traverse_util.flatten_dict(
      {"meta": new_meta.optimizer_state.trace, "alpha": new_arch.optimizer_state.trace}, sep=":")
  assert len(result) > 30
  losses = {"loss": metrics["loss_by_candidate"], "task_loss": search["task_loss"]}
  return losses, with_small_ones_together(jax.device_get(result))


def with_small_ones_together(tree):
  """Puts the gradients of all activation step sizes into one vector; those of weight step sizes, and alpha, likewise.

  Each is a sum of thousands of terms of both signs, so one of them alone may be nothing but rounding.
  """
  kinds = {"activation": [], "weight": [], "alpha": []}
  alone = {}
  for path, values in sorted(tree.items()):
    kind = "alpha" if path.startswith("alpha:") else path.rpartition(":")[-1]
    if kind in kinds:
      kinds[kind].append(np.ravel(values))
    else:
      alone[path] = values
  return alone | {kind: np.concatenate(parts) for kind, parts in kinds.items()}


def distances(ours, theirs):
  """{path: norm of the difference}."""
  assert ours.keys() == theirs.keys()
  return {path: np.linalg.norm(ours[path] - theirs[path]) for path in theirs}


@pytest.mark.slow
@pytest.mark.parametrize("data_seed", DATA_SEEDS)
def test_quantisers_agree_with_autodiff(data_seed):
  """The losses are equal to the last bit: no value is in another code."""
  (loss, ours), (plain_loss, theirs) = (
      gradients(quantizer, "native", data_seed)
      for quantizer in (LSQ, load_script("benchmarks/plain_quantizers").PLAIN))
  jax.tree.map(np.testing.assert_array_equal, loss, plain_loss)
  for path, distance in distances(ours, theirs).items():
    assert distance <= 1e-5 * np.linalg.norm(theirs[path]) + 1e-9, path


@pytest.mark.slow
@pytest.mark.parametrize("data_seed", DATA_SEEDS)
def test_depthwise_convolutions_agree_with_native_ones(data_seed):
  """They differ by no more than rounding, whose size the native ones show: the same images in another order.

  The order changes nothing but the order of sums over images. A fixed tolerance would be too small for gradients that
  are small differences of large sums, and too large for the others.
  """
  (loss, ours), (native_loss, theirs) = (
      gradients(CONTINUOUS, depthwise, data_seed) for depthwise in ("shifted", "native"))
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), loss, native_loss)
  rng = np.random.default_rng(data_seed)
  reordered = [gradients(CONTINUOUS, "native", data_seed, rng.permutation(BATCH))[1] for _ in range(ORDERS)]
  rounding = {path: max(distances(other, theirs)[path] for other in reordered) for path in theirs}
  for path, distance in distances(ours, theirs).items():
    assert distance <= 4 * rounding[path] <= 1e-3 * np.linalg.norm(theirs[path]), path
