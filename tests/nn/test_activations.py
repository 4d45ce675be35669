"""h-swish against jax.nn's, in value and gradient, at its corners too."""

import jax
import jax.numpy as jnp
import numpy as np

from metamix_jax.nn.activations import hard_swish


def test_value_and_gradient():
  x = jnp.concatenate([jnp.array([-3.0, 3.0, -1.5, 0.0, -3.0000002, 3.0000002]), jnp.linspace(-6, 6, 101)])
  dy = jax.random.normal(jax.random.key(0), x.shape)
  ours, pull_back = jax.vjp(hard_swish, x)
  reference, pull_back_reference = jax.vjp(jax.nn.hard_swish, x)
  np.testing.assert_array_equal(ours, reference)
  np.testing.assert_allclose(pull_back(dy)[0], pull_back_reference(dy)[0], rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(pull_back(jnp.ones_like(x))[0][:6], [0, 1, 0, 0.5, 0, 1], atol=1e-7)


def test_only_its_input_is_saved():
  x = jnp.ones((4, 5), jnp.bfloat16)
  pull_back = jax.vjp(hard_swish, x)[1]
  assert [saved.shape for saved in jax.tree.leaves(pull_back)] == [(4, 5)]
  assert pull_back(x)[0].dtype == jnp.bfloat16
