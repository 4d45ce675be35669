"""Bits of single layers from the config: candidates, pins and full precision, through every step of a network."""

import json
import pathlib
import re

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metamix_jax import experiment
from metamix_jax.config_file import flatten
from metamix_jax.errors import UserError
from metamix_jax.export.run import export_run
from metamix_jax.method.bops import attainable_range, average_activation_bits, complete_bits, gbops, lowest_bits
from metamix_jax.method.precision import assigned_precision, mixed_precision, precision_at_width
from metamix_jax.method.quantizers import CodeRange, fake_quantize
from metamix_jax.models.network import Network
from metamix_jax.nn.layers import QuantConv, QuantDense
from metamix_jax.nn.scheme import Placement, QuantizationScheme
from metamix_jax.nn.tracing import trace_layers
from metamix_jax.records.workdir import check_workdir, load_config_of_run
from metamix_jax.reporting import costs, page, saved_run, tables
from metamix_jax.training import context, steps
from metamix_jax.training.state import create_meta_state
from metamix_jax.training.steps import AXIS
from tests.helpers.configs import digits_config, middle_target, tiny_config

SHAPE, BATCH = (4, 4, 2), 4


class Three(nn.Module):
  num_classes: int
  scheme: QuantizationScheme

  @nn.compact
  def __call__(self, images, *, train):
    x = nn.relu(QuantConv(self.scheme.fixed, "signed", 4, 3, name="stem")(images))
    x = nn.relu(QuantConv(self.scheme, "unsigned", 4, 3, name="middle")(x))
    return QuantDense(self.scheme.fixed, "unsigned", self.num_classes, name="classifier")(jnp.mean(x, axis=(1, 2)))


def network_with(layer_bits=(), axis_name=None):
  module = Three(3, QuantizationScheme((3, 4, 8), 4, 8, Placement(axis_name), layer_bits=layer_bits))
  return Network(module, trace_layers(module, SHAPE), (0.5,) * 2, (0.25,) * 2, 1e-6)


def facts(network):
  return {layer.name: (layer.candidate_bits, layer.weight_bits) for layer in network.layers}


def start(network):
  """A meta-state with step sizes of activations, and a batch."""
  rng = np.random.default_rng(0)
  batch = {
      "image": rng.integers(0, 256, (BATCH, *SHAPE), dtype=np.uint8),
      "label": rng.integers(0, 3, BATCH).astype(np.int32),
      "target": rng.dirichlet(np.ones(3), BATCH).astype(np.float32)}
  meta = create_meta_state(network, optax.sgd(0.1), SHAPE, seed=0)
  meta = meta.with_activation_step_sizes({layer.name: jnp.float32(0.5) for layer in network.layers})
  return jax.device_get(meta.with_optimizer(optax.sgd(0.1))), batch


def test_candidates_pins_and_full_precision():
  assert facts(network_with()) == {"stem": ((8,), 8), "middle": ((3, 4, 8), 4), "classifier": ((8,), 8)}
  assert facts(network_with((("stem", (4, 8)), ("classifier", None), ("middle", (2, 6))))) == {
      "stem": ((4, 8), 8), "middle": ((2, 6), 4), "classifier": ((32,), 32)}  # Candidates leave the weights.
  assert facts(network_with((("middle", 5), ("stem", (6,))))) == {
      "stem": ((6,), 8), "middle": ((5,), 5), "classifier": ((8,), 8)}


def test_patterns_that_repeat_the_defaults_are_the_same_program():
  texts = []
  for layer_bits in ((), (("*", (3, 4, 8)), ("classifier", 8), ("stem", 8))):
    meta, batch = start(network_with(layer_bits, AXIS))
    of_replicas = jax.vmap(steps.bit_meta_step, (None, 0), axis_name=AXIS)
    text = str(jax.make_jaxpr(of_replicas)(meta, jax.tree.map(lambda leaf: leaf[None], batch)))
    texts.append(re.sub("0x[0-9a-f]+", "", text))  # Addresses of functions.
    assert set(meta.step_sizes) == {"stem", "middle", "classifier"}
  assert texts[0] == texts[1] and texts[0].count("conv_general_dilated") > 2


def test_a_layer_in_full_precision_computes_without_a_quantiser_in_every_phase():
  network = network_with((("stem", None), ("classifier", None)))
  meta, batch = start(network)
  meta = meta.with_weight_step_sizes()
  assert set(traverse_util.flatten_dict(meta.step_sizes, sep="/")) == {"middle/activation", "middle/weight"}
  logits, _ = network.apply(
      meta.variables(assigned_precision(network.layers, {"middle": 4})), batch["image"], train=False)
  params, step_sizes = meta.weights, meta.step_sizes["middle"]

  def convolve(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))

  x = nn.relu(convolve(network.normalize(batch["image"]), params["stem"]["kernel"]))
  x = fake_quantize(x, step_sizes["activation"][1], CodeRange(0.0, 15.0), 1.0)
  kernel = fake_quantize(params["middle"]["kernel"], step_sizes["weight"], CodeRange(-7.0, 7.0), 1.0)
  x = jnp.mean(nn.relu(convolve(x, kernel)), axis=(1, 2))
  expected = x @ params["classifier"]["kernel"] + params["classifier"]["bias"]
  np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


def test_every_precision_leaves_out_what_is_in_full_precision():
  layers = network_with((("stem", None),)).layers
  for tree in (assigned_precision(layers, {"middle": 3}), assigned_precision(layers, {"middle": 8}),
               precision_at_width(layers, jnp.int32(1))):
    assert set(traverse_util.flatten_dict(tree, sep="/")) == {"middle/candidate", "classifier/candidate"}
  mixed = mixed_precision(layers, {"middle": jnp.zeros(3)})
  assert set(traverse_util.flatten_dict(mixed, sep="/")) == {"middle/probabilities", "classifier/candidate"}


def test_full_precision_counts_as_32_bits():
  layers = network_with((("stem", None),)).layers
  stem, middle, classifier = (4 * 4 * 4 * 2 * 9, 4 * 4 * 4 * 4 * 9, 4 * 3)
  assert gbops(layers, complete_bits(layers, {"middle": 3})) == pytest.approx(
      (stem * 32 * 32 + middle * 3 * 4 + classifier * 8 * 8) / 1e9, rel=1e-12)
  assert average_activation_bits(layers, lowest_bits(layers)) == pytest.approx(
      (4 * 4 * 2 * 32 + 4 * 4 * 4 * 3 + 4 * 8) / (4 * 4 * 2 + 4 * 4 * 4 + 4))


def test_a_pattern_that_matches_nothing_is_one_sentence_with_the_layers():
  config = digits_config()
  config.quantization.layer_bits = {"*/depthwse": (4, 8), "head": 8}
  with pytest.raises(UserError, match=r"pattern '\*/depthwse', which matches no layer; the layers are stem, block_"):
    context.networks_without_data(config)
  config.quantization.layer_bits = {"*": 8}
  with pytest.raises(UserError, match="no layer to search; .* keep two candidates in config.quantization.layer_bits"):
    context.networks_without_data(config)


def test_the_report_of_costs_shows_what_each_pattern_caught():
  config = digits_config()
  config.quantization.layer_bits = {"*/depthwise": (4, 8), "head": 8, "stem": None, "*": (3, 8)}
  network, _ = context.networks_without_data(config)
  text = costs.format_costs(network.layers, lowest_bits(network.layers), network.module.scheme.layer_bits)
  depthwise = ", ".join(f"block_0{number}/depthwise" for number in range(5))
  assert f"  */depthwise (candidates 4, 8): {depthwise}\n" in text
  assert "  head (8/8): head\n" in text and "  stem (full precision): stem\n" in text
  everything = next(line for line in text.splitlines() if line.startswith("  * (candidates 3, 8):"))
  assert everything.count(",") == 1 + 17 - 5 - 2 - 1  # 17 layers, without depthwise, head and stem.
  row = next(line for line in text.splitlines() if line.startswith("stem "))
  assert row.endswith("full precision") and row.split()[3:5] == ["32", "32"]
  assert "What each pattern" not in costs.format_costs(network.layers, lowest_bits(network.layers))


def test_a_run_of_before_the_field_existed_is_read_and_continued(tmp_path):
  config = digits_config()
  fields = json.loads(json.dumps(flatten(config)))
  del fields["quantization.layer_bits"]
  (tmp_path / "config.json").write_text(json.dumps(fields))
  check_workdir(config, tmp_path)
  assert flatten(load_config_of_run(tmp_path)) == flatten(config)
  config.quantization.layer_bits = {"head": 8}
  with pytest.raises(UserError, match=r"quantization.layer_bits is None there and \{'head': 8\} here"):
    check_workdir(config, tmp_path)
  (tmp_path / "config.json").unlink()
  config.quantization.layer_bits = {"*/depthwise": (4, 8), "head": None}
  check_workdir(config, tmp_path)
  assert flatten(load_config_of_run(tmp_path)) == flatten(config)


@pytest.mark.slow
def test_a_run_with_full_precision_and_unequal_candidates(data_dir, tmp_path: pathlib.Path):
  config = tiny_config(data_dir)
  config.quantization.layer_bits = {"stem": None, "classifier": None, "*/depthwise": (4, 6), "head": 8, "*": (3, 8)}
  config.arch.target_gbops = middle_target(config)
  work = context.prepare(config)
  summary = experiment.run(work, tmp_path)
  target, = summary["targets"]
  assert {name: bits in (4, 6) for name, bits in target["bits"].items() if name.endswith("depthwise")} == {
      "block_00/depthwise": True, "block_01/depthwise": True}
  assert set(target["bits"]) == {layer.name for layer in work.network.layers} - {"stem", "classifier", "head"}
  assert summary["uniform"] == []  # No bit-width is a candidate of every searched layer.
  assert all(distance < 2 for distance in summary["activation_stability"]["after"].values())
  low, high = attainable_range(work.network.layers)
  assert low < target["gbops"] <= target["target_gbops"] < high
  text = page.write(tmp_path).read_text()
  assert "<td>stem (full precision)</td>" in text and tables.format_table(saved_run.read(tmp_path))
  with pytest.raises(UserError, match="layer stem of the run in .* is in full precision .* cannot be exported"):
    export_run(tmp_path, formats=("program",))
