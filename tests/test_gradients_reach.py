"""Gradients reach every weight, every step size and every alpha of the paper's networks."""

from flax import traverse_util
import jax
import numpy as np
import optax
import pytest

from metamix_jax.models import create_network
from metamix_jax.nn.scheme import Placement, QuantizationScheme
from metamix_jax.nn.tracing import trace_layers
from metamix_jax.training import parallel
from metamix_jax.training.optimizers import weight_labels
from metamix_jax.training.state import Network, create_arch_states, create_meta_state
from metamix_jax.training.steps import AXIS

# 64 pixels: the last layers then still see 2 x 2 of them, and every tap of their kernels meets an image.
SHAPE, BATCH, CLASSES = (64, 64, 3), 8, 10
CASES = [(name, bits) for name in ("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "resnet18")
         for bits in ((3, 8), (3, 4, 8), (2, 3, 4, 6, 8))]
# Each kind of block once: shortcut, squeeze and excitation, and both activations.
SMALL = {
    "resnet18": dict(stages=(1, 1), width=8, stem_kernel=3, stem_stride=1, stem_pool=False),
    "mobilenet_v3_small": dict(
        stem_stride=1, stem_channels=8, last_channels=16,
        blocks=((3, 16, 16, True, "relu", 2), (3, 16, 16, False, "hard_swish", 1)))}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_gradients_reach_everything_in_a_small_network(name):
  check_gradients(name, (3, 8), SMALL[name], (16, 16, 3))


@pytest.mark.slow
@pytest.mark.parametrize("name, bits", CASES, ids=lambda value: value if isinstance(value, str) else str(len(value)))
def test_gradients_reach_everything(name, bits):
  check_gradients(name, bits, {}, SHAPE)


def check_gradients(name, bits, options, shape):
  """The first momentum is the gradient itself: it must be finite everywhere and not zero in any array."""
  programs = parallel.make_programs(jax.devices()[:1])
  module = create_network(name, CLASSES, QuantizationScheme(bits, 4, 8, Placement(AXIS)), options)
  network = Network(module, trace_layers(module, shape), (0.5,) * 3, (0.25,) * 3, 1e-6)
  rng = np.random.default_rng(0)
  batch = parallel.split_batch({
      "image": rng.integers(0, 256, (BATCH, *shape), dtype=np.uint8),
      "label": rng.integers(0, CLASSES, BATCH).astype(np.int32),
      "target": rng.dirichlet(np.ones(CLASSES), BATCH).astype(np.float32)}, 1)
  optimizer = optax.trace(decay=0.9)
  meta = create_meta_state(network, optimizer, shape, seed=0)
  meta = meta.with_activation_step_sizes(programs.calibration_step(meta, batch)).with_weight_step_sizes()
  meta = jax.device_get(meta.with_optimizer(optimizer))
  weight_labels(meta.trainable)  # Raises for a leaf without an optimiser.
  target = sum(layer.macs for layer in network.layers) * 16 / 1e9
  arch = create_arch_states(
      network, optimizer, seed=0, initial_std=1e-3, targets_gbops=(target,), penalty_weights=(1e-3,))
  arch = jax.device_get(arch)

  new_meta, _ = programs.bit_meta_step(meta, batch)
  new_arch, _ = programs.bit_search_steps(arch, meta, batch)
  for tree, expected in (
      (new_meta.optimizer_state.trace, meta.trainable), (new_arch.optimizer_state.trace, arch.alpha)):
    gradients = traverse_util.flatten_dict(tree, sep="/")
    assert gradients.keys() == traverse_util.flatten_dict(expected, sep="/").keys()
    for path, gradient in gradients.items():
      gradient = np.asarray(gradient)
      assert np.isfinite(gradient).all(), path
      if path.startswith("step_sizes/") and path.endswith("activation"):
        assert (gradient != 0).all(), path  # Each bit-width has a step size of its own.
      else:
        assert (gradient != 0).any(), path
