"""Precision trees: one leaf for each layer, whose value selects or mixes its bit-widths."""

import jax.numpy as jnp
import numpy as np

from metamix_jax.method.bops import LayerCost
from metamix_jax.method.precision import assigned_precision, mixed_precision, uniform_precision

LAYERS = (
    LayerCost("stem", 10, 100, (8,), 8, "conv", "signed"),
    LayerCost("block/a", 20, 50, (3, 8), 4, "conv", "unsigned"),
    LayerCost("block/b", 30, 30, (3, 8), 4, "depthwise", "unsigned"),
)


def test_uniform_and_assigned_trees_mirror_the_modules():
  """A layer that is not searched has only one candidate, whatever the others read."""
  assert uniform_precision(LAYERS, np.int32(1)) == {
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
