"""Layers with different candidate sets: what a network at one width is, and a bit-meta step over all widths (M10)."""

import dataclasses
import functools

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax

from metamix_jax.method.bops import candidate_widths
from metamix_jax.method.precision import assigned_precision, bits_at_width, precision_at_width
from metamix_jax.models.network import Network
from metamix_jax.nn.layers import QuantConv, QuantDense
from metamix_jax.nn.scheme import Placement, QuantizationScheme
from metamix_jax.nn.tracing import trace_layers
from metamix_jax.training import parallel
from metamix_jax.training.state import create_meta_state
from metamix_jax.training.steps import AXIS

SHAPE, BATCH = (6, 6, 2), 8
# What each layer runs with at the widths 2, 3, 4, 6 and 8.
SETS = {"few": (4, 8), "many": (3, 4, 6, 8), "low": (2, 3)}
AT_WIDTH = {"few": (4, 4, 4, 4, 8), "many": (3, 3, 4, 6, 8), "low": (2, 3, 3, 3, 3), "classifier": (8,) * 5}


class Unequal(nn.Module):
  num_classes: int
  scheme: QuantizationScheme

  @nn.compact
  def __call__(self, images, *, train):
    x = images
    for name, candidate_bits in SETS.items():
      scheme = dataclasses.replace(self.scheme, candidate_bits=candidate_bits)
      x = nn.relu(QuantConv(scheme, "unsigned" if name != "few" else "signed", 4, 3, use_bias=True, name=name)(x))
    return QuantDense(self.scheme.fixed, "unsigned", self.num_classes, name="classifier")(jnp.mean(x, axis=(1, 2)))


def unequal_network():
  module = Unequal(3, QuantizationScheme((3, 4, 8), 4, 8, Placement(AXIS)))
  return Network(module, trace_layers(module, SHAPE), (0.5,) * 2, (0.25,) * 2, 1e-6)


def test_each_layer_takes_its_widest_candidate_that_is_not_above():
  layers = unequal_network().layers
  assert candidate_widths(layers) == (2, 3, 4, 6, 8)
  for index, width in enumerate(candidate_widths(layers)):
    expected = {name: bits[index] for name, bits in AT_WIDTH.items()}
    assert bits_at_width(layers, width) == expected
    jax.tree.map(
        np.testing.assert_array_equal, precision_at_width(layers, jnp.int32(index)),
        assigned_precision(layers, expected))


def test_of_equal_sets_the_index_of_the_width_is_that_of_every_candidate():
  """The program has no table of indices."""
  layers = tuple(
      dataclasses.replace(layer, candidate_bits=(3, 4, 8)) if layer.searched else layer
      for layer in unequal_network().layers)
  assert candidate_widths(layers) == (3, 4, 8)
  program = jax.make_jaxpr(functools.partial(precision_at_width, layers))(jnp.int32(1))
  assert not program.eqns
  jax.tree.map(
      np.testing.assert_array_equal, precision_at_width(layers, jnp.int32(1)),
      assigned_precision(layers, {layer.name: 4 if layer.searched else layer.candidate_bits[0] for layer in layers}))


def test_bit_meta_step_is_the_mean_over_the_widths_and_trains_every_candidate():
  network, optimizer = unequal_network(), optax.sgd(1.0)
  programs = parallel.make_programs(jax.devices()[:1])
  rng = np.random.default_rng(0)
  batch = parallel.split_batch({
      "image": rng.integers(0, 256, (BATCH, *SHAPE), dtype=np.uint8),
      "label": rng.integers(0, 3, BATCH).astype(np.int32),
      "target": rng.dirichlet(np.ones(3), BATCH).astype(np.float32)}, 1)
  meta = create_meta_state(network, optimizer, SHAPE, seed=0)
  meta = jax.device_get(
      meta.with_activation_step_sizes(programs.calibration_step(meta, batch)).with_optimizer(optimizer))
  updated, metrics = programs.bit_meta_step(meta, batch)
  singles = []
  for index in range(5):
    bits = {name: AT_WIDTH[name][index] for name in SETS}
    singles.append(programs.weight_step(meta, assigned_precision(network.layers, bits), batch))
  losses = [float(single["loss"]) for _, single in singles]
  np.testing.assert_allclose(metrics["loss_by_candidate"], losses, rtol=1e-6)
  # theta - mean(g) on both sides.
  expected = jax.tree.map(lambda *leaves: sum(leaves) / 5, *(jax.device_get(new.trainable) for new, _ in singles))
  jax.tree.map(
      lambda ours, mean: np.testing.assert_allclose(ours, mean, rtol=1e-5, atol=2e-6),
      jax.device_get(updated.trainable), expected)
  before = traverse_util.flatten_dict(meta.step_sizes, sep="/")
  for path, step_sizes in traverse_util.flatten_dict(jax.device_get(updated.step_sizes), sep="/").items():
    assert (step_sizes != before[path]).all(), path
