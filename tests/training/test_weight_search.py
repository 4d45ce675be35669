"""Bits of weights searched beside those of activations: kernels, turns and costs by hand, and a whole run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metamix_jax import experiment
from metamix_jax.errors import UserError
from metamix_jax.method.bit_mixture import bit_probabilities
from metamix_jax.method.bops import LayerCost, choices, complete_bits, gbops
from metamix_jax.method.quantizers import code_range, fake_quantize
from metamix_jax.models.network import Network
from metamix_jax.nn.layers import QuantDense, weight_step_sizes
from metamix_jax.nn.scheme import QuantizationScheme
from metamix_jax.reporting import page, saved_run, tables
from metamix_jax.training.context import networks_without_data, prepare
from metamix_jax.training.state import create_arch_states
from metamix_jax.training.steps import expected_bits, expected_cost
from tests.helpers.configs import tiny_config

SCHEME = QuantizationScheme((3, 8), 4, 8, candidate_weight_bits=(2, 4))
LAYERS = (
    LayerCost("stem", 10**6, 10, (8,), 8, "conv", "signed"),
    LayerCost("a", 10**7, 10, (3, 4, 8), 4, "conv", "unsigned", candidate_weight_bits=(2, 4)),
    LayerCost("b", 10**8, 10, (4, 8), 4, "conv", "unsigned"))


def kernel_in_use(precision, step_sizes):
  """The kernel of a dense layer, as it reads ones."""
  layer, kernel = QuantDense(SCHEME, "unsigned", 3), jnp.linspace(-1, 1, 12).reshape(4, 3)
  variables = {"params": {"kernel": kernel, "bias": jnp.zeros(3)}, "step_sizes": step_sizes, "precision": precision}
  return kernel, layer.apply(variables, jnp.eye(4))


def test_a_kernel_is_one_candidate_or_the_mixture_of_all():
  kernel, _ = kernel_in_use({}, {})
  steps = weight_step_sizes(kernel, (2, 4))
  assert steps.shape == (2, 3)
  for row, bits in zip(steps, (2, 4), strict=True):
    np.testing.assert_array_equal(row, weight_step_sizes(kernel, bits))
  at = [fake_quantize(kernel, steps[index], code_range(bits, "signed"), jnp.float32(1))
        for index, bits in enumerate((2, 4))]
  for index in (0, 1):
    _, used = kernel_in_use({"kernel_candidate": jnp.int32(index)}, {"weight": steps})
    np.testing.assert_array_equal(used, at[index])
  _, used = kernel_in_use({"kernel_probabilities": jnp.array([0.25, 0.75])}, {"weight": steps})
  np.testing.assert_allclose(used, 0.25 * at[0] + 0.75 * at[1], rtol=1e-6)
  for precision, step_sizes in (({}, {"weight": steps}), ({"kernel_candidate": jnp.int32(0)}, {})):
    np.testing.assert_array_equal(kernel_in_use(precision, step_sizes)[1], kernel)


def test_the_cost_of_pairs_and_its_straight_through_gradient_by_hand():
  network = Network(None, LAYERS, (0.5,), (0.5,), 1e-6)
  alpha = {"a": jnp.array([0.5, -1.0, 0.25]), "b": jnp.array([-0.5, 0.75]), "a/kernel": jnp.array([0.0, 0.5])}
  assert jax.tree.map(float, expected_bits(network, alpha)) == {"stem": 8, "a": 3, "b": 8, "a/kernel": 4}
  value, gradient = jax.value_and_grad(lambda alpha: expected_cost(network, {}, alpha))(alpha)
  assert value == pytest.approx((10**6 * 64 + 10**7 * 3 * 4 + 10**8 * 8 * 4) / 1e9)
  for name, costs in (("a", [0.12, 0.16, 0.32]), ("a/kernel", [0.06, 0.12]), ("b", [1.6, 3.2])):
    pi = np.asarray(bit_probabilities(alpha[name]))
    np.testing.assert_allclose(gradient[name], pi * (costs - pi @ np.array(costs)), rtol=1e-4)


def test_layers_start_where_they_start_without_kernels():
  def alpha_of(layers):
    return create_arch_states(
        Network(None, layers, (0.5,), (0.5,), 1e-6), optax.sgd(1.0), seed=3, initial_std=1e-3, targets_gbops=[1.0],
        penalty_weights=[1.0]).alpha

  with_kernels = alpha_of(LAYERS)
  without = alpha_of([LayerCost(*(getattr(layer, name) for name in (
      "name", "macs", "input_elements", "candidate_bits", "weight_bits", "kind", "input_range"))) for layer in LAYERS])
  assert set(with_kernels) == {"a", "b", "a/kernel"} and set(without) == {"a", "b"}
  for name, values in without.items():
    np.testing.assert_array_equal(with_kernels[name], values)
  assert with_kernels["a/kernel"].shape == (1, 2) and np.abs(with_kernels["a/kernel"]).max() < 0.01


def test_pins_are_not_searched():
  pinned = QuantizationScheme((3, 8), 4, 8, layer_bits=(("a", 8), ("b", (4, 8)), ("c", (8,)), ("d", None)),
                              candidate_weight_bits=(2, 4))
  assert [pinned.of_layer(name).candidate_weight_bits for name in "abcde"] == [(), (2, 4), (), (), (2, 4)]
  assert SCHEME.fixed.candidate_weight_bits == ()


@pytest.mark.parametrize("fields, sentence", [
    ({"quantization.candidate_weight_bits": (2, 8)}, "config.quantization.weight_bits is 4; it must be one of"),
    ({"arch.cost": "activation_bytes"}, "config.arch.cost is 'activation_bytes' and .* they must be 'bops' and None"),
    ({"arch.at_most": ("bops=1",)}, "config.arch.at_most is .* they must be 'bops' and None")])
def test_what_cannot_be_searched_together_is_one_sentence(data_dir, fields, sentence):
  config = tiny_config(data_dir)
  config.quantization.candidate_weight_bits = (2, 4, 8)
  config.update_from_flattened_dict(fields)
  with pytest.raises(UserError, match=sentence):
    prepare(config)


@pytest.mark.slow
def test_a_run_with_both(data_dir, tmp_path):
  config = tiny_config(data_dir)
  config.quantization.candidate_weight_bits = (2, 4, 8)
  network, _ = networks_without_data(config)
  summary = experiment.run(prepare(config), tmp_path / "run")
  target, = summary["targets"]
  assert list(target["bits"]) == list(choices(network.layers))
  assert any(name.endswith("/kernel") for name in target["bits"])
  assert target["gbops"] == gbops(network.layers, complete_bits(network.layers, target["bits"])) <= 0.0008
  assert target["final_top1"] > 0
  lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
  assert any("search/0.0008/probability/head/kernel/2" in line for line in lines)
  run = saved_run.read(tmp_path / "run")
  assert run.target_results[0].bits == target["bits"]
  assert "head/kernel" in tables.format_table(run) and page.write(tmp_path / "run").exists()
  # What was selected can be trained again, from the file, on the same meta-state.
  config.bits_from, config.meta_state_from = str(tmp_path / "run" / "selected_bits.json"), str(tmp_path / "run")
  again, = experiment.run(prepare(config), tmp_path / "again")["targets"]
  assert again["bits"] == target["bits"] and again["meta_state_top1"] == target["meta_state_top1"]
  assert again["final_top1"] == target["final_top1"]
