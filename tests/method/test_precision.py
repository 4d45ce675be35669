"""Precision trees: one leaf for each layer, whose value selects or mixes its bit-widths."""

import jax
import jax.numpy as jnp
import numpy as np

from metamix_jax.method.bit_mixture import bit_probabilities
from metamix_jax.method.bops import LayerCost
from metamix_jax.method.precision import (
    assigned_precision,
    mixed_precision,
    precision_at_width,
)

LAYERS = (
    LayerCost("stem", 10, 100, (8,), 8, "conv", "signed"),
    LayerCost("block/a", 20, 50, (3, 8), 4, "conv", "unsigned"),
    LayerCost("block/b", 30, 30, (3, 8), 4, "depthwise", "unsigned"),
)


def test_uniform_and_assigned_trees_mirror_the_modules():
  """A layer that is not searched has only one candidate, whatever the others read."""
  assert precision_at_width(LAYERS, np.int32(1)) == {
      "stem": {"candidate": 0}, "block": {"a": {"candidate": 1}, "b": {"candidate": 1}}}
  tree = assigned_precision(LAYERS, {"block/a": 8, "block/b": 3})
  assert tree == {"stem": {"candidate": 0}, "block": {"a": {"candidate": 1}, "b": {"candidate": 0}}}
  # Data, not a part of the program: another selection compiles nothing.
  assert tree["block"]["a"]["candidate"].dtype == jnp.int32 and tree["stem"]["candidate"].shape == ()


def test_mixed_tree_holds_probabilities_of_searched_layers_alone():
  tree = mixed_precision(LAYERS, {"block/a": jnp.log(jnp.array([1.0, 3.0])), "block/b": jnp.zeros(2)})
  assert tree["stem"] == {"candidate": 0}
  assert tree["block"]["a"].keys() == tree["block"]["b"].keys() == {"probabilities"}
  np.testing.assert_allclose(tree["block"]["a"]["probabilities"], [0.25, 0.75], rtol=1e-6)
  np.testing.assert_allclose(tree["block"]["b"]["probabilities"], [0.5, 0.5], rtol=1e-6)


WITH_KERNELS = (
    LayerCost("stem", 10**6, 10, (8,), 8, "conv", "signed"),
    LayerCost("a", 10**7, 10, (3, 4, 8), 4, "conv", "unsigned", candidate_weight_bits=(2, 4)),
    LayerCost("b", 10**8, 10, (4, 8), 4, "conv", "unsigned"))


def test_over_the_turns_every_pair_has_its_turn_once():
  pairs = [
      (int(tree["a"]["candidate"]), int(tree["a"]["kernel_candidate"])) for turn in range(4) for width in range(3)
      for tree in [precision_at_width(WITH_KERNELS, jnp.int32(width), jnp.int32(turn))]]
  assert sorted(pairs) == sorted(2 * [(width, kernel) for width in range(3) for kernel in range(2)])
  assert "kernel_candidate" not in precision_at_width(WITH_KERNELS, jnp.int32(0))["b"]


def test_precision_trees_name_kernels():
  bits = {"a": 4, "b": 8, "a/kernel": 2}
  assert jax.tree.map(int, assigned_precision(WITH_KERNELS, bits)) == {
      "stem": {"candidate": 0}, "a": {"candidate": 1, "kernel_candidate": 0}, "b": {"candidate": 1}}
  assert assigned_precision(WITH_KERNELS, {"a": 4, "b": 8})["a"]["kernel_candidate"] == 1  # layer.weight_bits.
  alpha = {"a": jnp.zeros(3), "b": jnp.zeros(2), "a/kernel": jnp.array([0.0, 1.0])}
  np.testing.assert_array_equal(
      mixed_precision(WITH_KERNELS, alpha)["a"]["kernel_probabilities"], bit_probabilities(alpha["a/kernel"]))


def test_a_kernel_is_as_many_candidates_after_the_input_as_turns_were_taken():
  layers = (LayerCost("a", 10, 10, (3, 4, 8), 4, "conv", "unsigned", candidate_weight_bits=(2, 3, 4)),)
  at = lambda *numbers: int(precision_at_width(layers, *map(jnp.int32, numbers))["a"]["kernel_candidate"])
  assert [at(0), at(1), at(2)] == [0, 1, 2] and [at(0, 1), at(1, 1), at(2, 1)] == [1, 2, 0]
  assert [at(0, 5), at(1, 5), at(2, 5)] == [2, 0, 1]
