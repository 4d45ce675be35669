"""Declared input ranges (M3) against what the layers read."""

import dataclasses

from flax import linen as nn
import jax.numpy as jnp
import pytest

from metamix_jax import experiment
from metamix_jax.errors import UserError
from metamix_jax.models.network import Network
from metamix_jax.nn.activations import hard_swish
from metamix_jax.nn.layers import QuantConv, QuantDense
from metamix_jax.nn.scheme import Placement, QuantizationScheme
from metamix_jax.nn.tracing import trace_layers
from metamix_jax.training import phases
from metamix_jax.training.context import prepare
from metamix_jax.training.input_ranges import check_input_ranges
from tests.helpers.configs import tiny_config

SCHEME = QuantizationScheme((3, 4, 8), 4, 8, Placement("batch"))


class Declared(nn.Module):
  """A network whose layers read an activation with a declared range, which may be wrong."""

  activation: str
  input_range: str
  image_range: str = "signed"

  @nn.compact
  def __call__(self, images, *, train):
    x = QuantConv(SCHEME.fixed, self.image_range, 4, 3, strides=2, name="stem")(images)
    x = SCHEME.batch_norm(0.9, 1e-5, "norm")(x, train=train)
    activations = {
        "linear": lambda x: x, "relu": nn.relu, "hard_swish": hard_swish, "gelu": nn.gelu,
        "dropped hard_swish": lambda x: nn.Dropout(0.5, deterministic=not train)(hard_swish(x)),
        "rounded": lambda x: nn.relu(x) - 1e-7 * jnp.mean(nn.relu(x))}
    x = QuantConv(SCHEME, self.input_range, 4, 3, name="conv")(activations[self.activation](x))
    return QuantDense(SCHEME.fixed, "signed", 10, name="classifier")(jnp.mean(x, axis=(1, 2)))


@pytest.fixture(scope="module")
def tiny_context(data_dir):
  return prepare(tiny_config(data_dir))


def with_network(context, module):
  layers = trace_layers(module, context.data.image_shape)
  return dataclasses.replace(context, network=Network(module, layers, (0.3,), (0.4,), 1e-6))


@pytest.mark.parametrize("module, sentence", [
    (Declared("relu", "unsigned"), None),
    (Declared("rounded", "unsigned"), None),
    (Declared("linear", "signed"), None),
    (Declared("hard_swish", "hard_swish"), None),
    (Declared("gelu", "hard_swish"), None),  # Never below -0.17.
    (Declared("dropped hard_swish", "hard_swish"), None),  # In training, what is kept is scaled to -3/4.
    (Declared("linear", "unsigned"), r"layer conv reads values down to -\d\.\d+, but its input_range is 'unsigned', "
     "which is 0 and above; declare 'signed', or let the activation that was declared stand before it."),
    (Declared("gelu", "unsigned"), r"layer conv reads values down to -0\.1\d+, but its input_range is 'unsigned'"),
    (Declared("linear", "hard_swish"),
     r"conv reads values down to -\d\.\d+, but its input_range is 'hard_swish', which is -0.375 and above; declare "),
    (Declared("relu", "unsigned", "unsigned"), r"layer stem reads values down to -0\.75, but its input_range is "),
])
def test_declared_ranges(tiny_context, module, sentence):
  context = with_network(tiny_context, module)
  meta = phases.create_student(context)
  if sentence is None:
    check_input_ranges(context, meta)
    return
  with pytest.raises(UserError, match=sentence) as caught:
    check_input_ranges(context, meta)
  assert "\n" not in str(caught.value)


def test_a_run_stops_before_its_search(tiny_context, tmp_path):
  with pytest.raises(UserError, match="layer conv reads values down to .*; declare 'signed'"):
    experiment.run(with_network(tiny_context, Declared("linear", "unsigned")), tmp_path)
  assert sorted(path.name for path in (tmp_path / "checkpoints").glob("*.json")) == ["pretraining.json"]
