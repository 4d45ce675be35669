"""Further limits in the search: excess, gradients and multipliers by hand, what they do to alpha, and a whole run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metamix_jax import experiment
from metamix_jax.errors import UserError
from metamix_jax.method.bops import LayerCost, complete_bits
from metamix_jax.method.costs import total_activation_bytes
from metamix_jax.models.network import Network
from metamix_jax.records.limits import read_limits
from metamix_jax.reporting import page, saved_run, tables
from metamix_jax.training.context import networks_without_data, prepare
from metamix_jax.training.search_limits import create_search_limits, limits_penalty, multipliers
from metamix_jax.training.state import create_arch_states
from tests.helpers.configs import tiny_config

LAYERS = (
    LayerCost("stem", 10**6, 80, (8,), 8, "conv", "signed"),  # 80 bytes.
    LayerCost("a", 10**7, 16, (3, 4, 8), 4, "conv", "unsigned"),  # 6, 8 or 16 bytes.
    LayerCost("b", 10**8, 160, (4, 8), 4, "conv", "unsigned"))  # 80 or 160 bytes.
ALPHA = {"a": jnp.array([0.5, -1.0, 0.25]), "b": jnp.array([-0.5, 0.75])}  # At 3 and 8 bits.


def limits_of(*words):
  return create_search_limits(LAYERS, read_limits(LAYERS, words, "field"), 0.5)


def softmax(values):
  return np.exp(values) / np.exp(values).sum()


def test_the_excess_of_a_sum_and_its_gradient_by_hand():
  limit, = limits_of("activation_bytes=200").values()
  value, gradient = jax.value_and_grad(limit.excess)(ALPHA)
  assert value == pytest.approx((80 + 6 + 160) / 200 - 1)
  for name, costs in (("a", np.array([6, 8, 16])), ("b", np.array([80, 160]))):
    pi = softmax(np.asarray(ALPHA[name]))
    np.testing.assert_allclose(gradient[name], pi * (costs - pi @ costs) / 200, rtol=1e-5)


def test_the_excess_of_the_peak_is_that_of_the_layers_that_pass_it():
  limit, = limits_of("peak_activation_bytes=100").values()
  assert limit.excess(ALPHA) == pytest.approx(0.6)  # Layer b: 160 bytes of 100.
  assert limit.excess(ALPHA | {"b": jnp.array([1.0, 0.0])}) == 0  # At 4 bits it has 80, and all others have less.


def test_the_multiplier_grows_with_the_excess_and_falls_to_zero_at_least():
  limits = limits_of("activation_bytes=200", "peak_activation_bytes=100")
  assert list(limits) == ["activation_bytes", "peak_activation_bytes"]
  assert limits_penalty(limits, ALPHA) == 0
  limits = {name: limit.after_step(ALPHA) for name, limit in limits.items()}
  assert {name: float(value) for name, value in multipliers(limits).items()} == pytest.approx(
      {"activation_bytes": 0.5 * 0.23, "peak_activation_bytes": 0.5 * 0.6})
  assert limits_penalty(limits, ALPHA) == pytest.approx(0.5 * 0.23**2 + 0.5 * 0.6**2)
  low = {"a": jnp.array([1.0, 0.0, 0.0]), "b": jnp.array([1.0, 0.0])}  # 166 bytes: an excess of -0.17.
  after = limits["activation_bytes"].after_step(low)
  assert after.multiplier == pytest.approx(0.115 - 0.085, rel=1e-5)
  assert after.after_step(low).multiplier == 0


def test_limits_of_the_same_cost_have_names_of_their_own(tmp_path):
  assert list(limits_of("activation_bytes=200", "activation_bytes=190", "bops=3")) == [
      "activation_bytes", "activation_bytes_1", "BOPs"]


@pytest.mark.parametrize("words, keeps", [
    (("activation_bytes=200",), lambda bits: total_activation_bytes(LAYERS, bits) <= 200),
    (("peak_activation_bytes=100",), lambda bits: bits["b"] == 4)])
def test_a_search_that_wants_high_bits_ends_within_the_limit(words, keeps):
  """The loss falls with the expected bits; without the limit, both layers end at 8 bits."""
  network = Network(None, LAYERS, (0.5,), (0.5,), 1e-6)

  def searched(limits):
    archs = create_arch_states(
        network, optax.adam(0.02), seed=0, initial_std=1e-3, targets_gbops=[1.0], penalty_weights=[0.0], limits=limits)
    arch = jax.tree.map(lambda leaf: leaf[0], archs)

    def loss(alpha, limits):
      bits = sum(jnp.dot(jax.nn.softmax(alpha[layer.name]), jnp.array(layer.candidate_bits, jnp.float32))
                 for layer in LAYERS if layer.searched)
      return -0.05 * bits + (limits_penalty(limits, alpha) if limits else 0.0)

    step = jax.jit(lambda arch: arch.apply_gradients(jax.grad(loss)(arch.alpha, arch.limits), jnp.float32(0)))
    kept = []
    for _ in range(600):
      arch = step(arch)
      kept.append(keeps(complete_bits(LAYERS, {
          layer.name: layer.candidate_bits[int(np.argmax(arch.alpha[layer.name]))]
          for layer in LAYERS if layer.searched})))
    return kept

  assert not searched({})[-1]
  assert np.mean(searched(limits_of(*words))[-300:]) > 0.5


def test_a_step_that_is_not_finite_keeps_the_multipliers():
  network = Network(None, LAYERS, (0.5,), (0.5,), 1e-6)
  archs = create_arch_states(
      network, optax.sgd(1.0), seed=0, initial_std=0.0, targets_gbops=[1.0], penalty_weights=[0.0],
      limits=limits_of("activation_bytes=100"))
  arch = jax.tree.map(lambda leaf: leaf[0], archs)
  gradients = jax.tree.map(jnp.zeros_like, arch.alpha)
  assert multipliers(arch.apply_gradients(gradients, jnp.float32(np.nan)).limits) == {"activation_bytes": 0}
  # Equal alphas select 3 and 4 bits: 166 bytes of 100.
  assert multipliers(arch.apply_gradients(gradients, jnp.float32(0)).limits)["activation_bytes"] == pytest.approx(0.33)


def test_limits_that_cannot_be_kept_are_refused_before_anything_is_compiled(data_dir):
  config = tiny_config(data_dir)
  for words, sentence in (
      (("activation_bytes=1",), "no assignment of bits keeps the target 0.0008 and every limit of config.arch.at_most"),
      (("activation_bytes",), "config.arch.at_most has 'activation_bytes'; it must be COST=VALUE"),
      (("none.csv=2",), "config.arch.at_most=none.csv cannot be read"),
      ("bops=1", "config.arch.at_most is 'bops=1'; it must be a tuple of COST=VALUE")):
    config.arch.at_most = words
    with pytest.raises(UserError, match=sentence):
      prepare(config)


@pytest.mark.slow
def test_a_run_with_two_limits(data_dir, tmp_path):
  config, rng = tiny_config(data_dir), np.random.default_rng(0)
  network, _ = networks_without_data(config)
  table = tmp_path / "table.csv"
  rows = [f"{layer.name},{bits},{bits * rng.uniform(1, 2):.4f}" for layer in network.searched_layers
          for bits in layer.candidate_bits]
  table.write_text("\n".join(["layer,activation_bits,energy [mJ]", *rows]) + "\n")
  free = experiment.run(prepare(config), tmp_path / "free")["targets"][0]
  energy = {tuple(row.split(",")[:2]): float(row.split(",")[2]) for row in rows}
  spent = sum(energy[name, str(bits)] for name, bits in free["bits"].items())
  free_bytes = total_activation_bytes(network.layers, complete_bits(network.layers, free["bits"]))
  most = round(0.97 * spent, 3)
  config.arch.at_most = (f"{table}={most}", f"activation_bytes={free_bytes}")
  config.arch.target_gbops = (0.0008, 0.0009)
  summary = experiment.run(prepare(config), tmp_path / "run")
  for target in summary["targets"]:
    in_energy, in_bytes = target["limits"]
    assert in_energy["name"] == "energy" and in_energy["unit"] == "mJ"
    assert in_energy["cost"] == pytest.approx(sum(energy[name, str(bits)] for name, bits in target["bits"].items()))
    assert in_energy["cost"] <= most and in_bytes["cost"] <= free_bytes
    assert target["gbops"] <= target["target_gbops"]
  lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
  recorded = [line for line in lines if "search/0.0008/multiplier/energy" in line]
  assert recorded and all(line["search/0.0009/multiplier/activation_bytes"] >= 0 for line in recorded)
  run = saved_run.read(tmp_path / "run")
  assert [len(result.limits) for result in run.target_results] == [2, 2]
  assert f"of {most:.6g} mJ" in tables.format_table(run)
  assert "selected bits, energy" in page.write(tmp_path / "run").read_text()
  table.write_text(table.read_text().replace(rows[0], rows[0] + "1"))
  with pytest.raises(UserError, match="holds a run with other costs: .* the earlier table of config.arch.at_most"):
    experiment.run(prepare(config), tmp_path / "run")
