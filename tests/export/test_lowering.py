"""From a user's own network to a program: each operation between layers; a sentence for what cannot be exported."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metamix_jax.errors import UserError
from metamix_jax.export import evaluator, folding, lowering, stablehlo, tracing
from tests.helpers.exported_networks import noise, random_network
from tests.helpers.glue_networks import GLUE, SHAPE, glue_network


def program_of(network):
  return folding.make_program(network.network, network.variables, network.bits, network.image_shape)


@pytest.mark.parametrize("glue", GLUE)
def test_what_stands_between_layers_is_exported(glue):
  """The middle layer reads what the module itself computes, and JAX computes what NumPy does, bit for bit."""
  network = glue_network(glue)
  made = program_of(network)
  images = noise(np.random.default_rng(0), 5, SHAPE)
  result = evaluator.evaluate(made, images)

  norm = network.variables["params"]["norm"], network.variables["batch_stats"]["norm"]
  stem, = (node for node in made.nodes if node["name"] == "stem/output")
  x = evaluator.conv(stem, made.arrays, result.codes["stem"])
  assert norm[0]["scale"][0] == 0 and np.all(x[..., 0] == norm[0]["bias"][0])
  node = next(node for node in made.quantizers if node["layer"] == "middle")
  expected = np.asarray(GLUE[glue](jnp.asarray(x))) / np.float32(node["step_size"])
  np.testing.assert_allclose(result.steps["middle"], np.clip(expected, -127, 127), rtol=1e-5, atol=1e-4)
  assert np.unique(result.codes["middle"]).size > 10

  logits, codes, _ = jax.jit(lambda images: stablehlo.interpret(made, images))(images)
  for layer, values in result.codes.items():
    np.testing.assert_array_equal(codes[layer], values)
  assert np.asarray(logits).tobytes() == result.logits.tobytes()


@pytest.mark.parametrize("how, words", [
    ("sigmoid", "operation logistic outside of its quantised layers"),
    ("dense", "operation dot_general outside"),
    ("batch", "treat each image alone"),
    ("flip", "operation rev outside"),
    ("merge", "batch"),
    ("subclass", "layer own is a OwnLayer, which cannot be exported"),
    ("norm", "batch norm late_norm has the scale 0 in channel 0"),
])
def test_what_cannot_be_exported_is_named(how, words):
  network = random_network("tests.helpers.glue_networks:Refused", {"how": "norm" if how == "norm" else ""}, SHAPE)
  module = network.network.module.clone(how=how)
  params = network.variables["params"] | {
      "Dense_0": {"kernel": np.ones((192, 10), np.float32), "bias": np.zeros(10, np.float32)},
      "own": {"kernel": np.ones((4, 10), np.float32), "bias": np.zeros(10, np.float32)}}
  with pytest.raises(UserError, match=words):
    lowering.Lowering(tracing.trace_marked(
        module, network.variables | {"params": params}, SHAPE)) if how != "norm" else program_of(network)


def test_a_network_that_was_not_trained_to_stage_b_is_refused():
  network = glue_network("relu")
  step_sizes = {name: {"activation": sizes["activation"]} for name, sizes in network.variables["step_sizes"].items()}
  with pytest.raises(UserError, match="stem has no step sizes of its weights.*stage B"):
    folding.make_program(network.network, network.variables | {"step_sizes": step_sizes}, network.bits, SHAPE)


def test_a_quantiser_of_ones_own_is_refused():
  network = glue_network("relu")
  scheme = network.network.module.scheme
  other = scheme.quantizer._replace(fake_quantize=lambda *arguments: scheme.quantizer.fake_quantize(*arguments))
  module = network.network.module.clone(scheme=dataclasses.replace(scheme, quantizer=other))
  with pytest.raises(UserError, match="layer stem has a quantiser of its own"):
    tracing.trace_marked(module, network.variables, SHAPE)


def test_a_channel_that_batch_norm_ends_is_a_constant():
  """The scale 0, or one so small that its reciprocal is no float32, leaves no weights."""
  network = glue_network("relu")
  network.variables["params"]["norm"]["scale"][:] = [0, 1e-45, 1, -1]
  made = program_of(network)
  kernel = made.arrays["stem/kernel"]
  assert not kernel[..., :2].any() and kernel[..., 2].any() and kernel[..., 3].any()
  images = noise(np.random.default_rng(0), 2, SHAPE)
  stem, = (node for node in made.nodes if node["name"] == "stem/output")
  x = evaluator.conv(stem, made.arrays, evaluator.evaluate(made, images).codes["stem"])
  np.testing.assert_array_equal(x[..., :2], np.broadcast_to(
      network.variables["params"]["norm"]["bias"][:2], x[..., :2].shape))


def test_two_divisions_in_a_row_stay_two():
  """XLA makes x / (a * b) of (x / a) / b, which rounds otherwise: at a tie another code."""
  rng = np.random.default_rng(0)
  x, a = (rng.uniform(0.5, 2, (1000, 32)).astype(np.float32) for _ in range(2))
  a, b = a[0], np.float32(0.09948158264160156)
  assert np.mean(x / a / b != x / (a * b)) > 0.1
  divided = jax.jit(lambda x: stablehlo._divide(stablehlo._divide(x, a), b))(x)
  assert np.asarray(divided).tobytes() == (x / a / b).tobytes()
  of_infinity = stablehlo._divide(jnp.array([np.inf, -np.inf, np.nan, -0.0], np.float32), b)
  assert np.asarray(of_infinity)[:2].tolist() == [stablehlo.LARGEST, -stablehlo.LARGEST]
  assert np.isnan(of_infinity[2]) and np.signbit(of_infinity[3]) and of_infinity[3] == 0
