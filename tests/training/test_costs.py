"""The search with costs of a user's own: values, gradients, one program for every table, and a whole run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metamix_jax import experiment
from metamix_jax.errors import UserError
from metamix_jax.method.bops import LayerCost, gbops
from metamix_jax.method.costs import with_table
from metamix_jax.models.network import Network
from metamix_jax.reporting import page, saved_run, tables
from metamix_jax.training.context import networks_without_data, prepare
from metamix_jax.training.state import create_arch_states
from metamix_jax.training.steps import expected_bits, expected_cost
from tests.helpers.configs import tiny_config

LAYERS = (
    LayerCost("stem", 10**6, 10, (8,), 8, "conv", "signed"),
    LayerCost("a", 10**7, 10, (3, 4, 8), 4, "conv", "unsigned"),
    LayerCost("b", 10**8, 10, (4, 8), 4, "conv", "unsigned"))
ALPHA = {"a": jnp.array([0.5, -1.0, 0.25]), "b": jnp.array([-0.5, 0.75])}


def network_at(*values):
  """A network whose layers cost these values at their candidates in turn; none: BOPs."""
  keys = [(layer.name, bits, None) for layer in LAYERS for bits in layer.candidate_bits]
  layers = with_table(LAYERS, "latency", "ms", dict(zip(keys, values, strict=True)), "t") if values else LAYERS
  return Network(None, layers, (0.5,), (0.5,), 1e-6)


def costs_of(network):
  archs = create_arch_states(
      network, optax.sgd(1.0), seed=0, initial_std=0.0, targets_gbops=[1.0], penalty_weights=[1.0])
  return {name: values[0] for name, values in archs.costs.items()}


def test_the_cost_of_a_table_and_its_straight_through_gradient_by_hand():
  network = network_at(0.5, 1.0, 7.0, 2.0, 3.0, 4.5)
  value, gradient = jax.value_and_grad(lambda alpha: expected_cost(network, costs_of(network), alpha))(ALPHA)
  assert value == 0.5 + 1.0 + 4.5  # The highest alphas: 3 bits of a, 8 bits of b.
  for name, costs in (("a", np.array([1.0, 7.0, 2.0])), ("b", np.array([3.0, 4.5]))):
    pi = np.exp(ALPHA[name]) / np.exp(ALPHA[name]).sum()
    np.testing.assert_allclose(gradient[name], pi * (costs - pi @ costs), rtol=1e-5)


def test_without_a_table_the_cost_is_that_of_bops():
  network = network_at()
  assert costs_of(network) == {}
  assert expected_cost(network, {}, ALPHA) == gbops(LAYERS, expected_bits(network, ALPHA))
  assert float(expected_cost(network, {}, ALPHA)) == pytest.approx(
      (10**6 * 64 + 10**7 * 3 * 4 + 10**8 * 8 * 4) / 1e9, rel=1e-6)


def test_another_table_runs_in_the_same_program():
  traced = []

  def cost(network, costs):
    traced.append(network)
    return expected_cost(network, costs, ALPHA)

  compiled = jax.jit(cost, static_argnums=0)
  first, second = network_at(0.5, 1.0, 7.0, 2.0, 3.0, 4.5), network_at(0.0, 3.0, 0.0, 0.0, 0.0, 2.0)
  assert [float(compiled(network, costs_of(network))) for network in (first, second)] == [6.0, 5.0]
  assert len(traced) == 1


@pytest.mark.slow
def test_a_run_at_a_random_table(data_dir, tmp_path):
  config, rng = tiny_config(data_dir), np.random.default_rng(0)
  network, _ = networks_without_data(config)
  rows = [f"{layer.name},{bits},{rng.uniform(1, 5):.4f}" for layer in network.searched_layers
          for bits in layer.candidate_bits]
  table = tmp_path / "table.csv"
  table.write_text("\n".join(["layer,activation_bits,energy [mJ]", *rows]) + "\n")
  config.arch.cost = str(table)
  with pytest.raises(UserError, match=r"target_gbops is 0.0008; this network reaches .* mJ with the candidate"):
    prepare(config)
  config.arch.target_gbops = 18.0
  summary = experiment.run(prepare(config), tmp_path / "run")
  target, = summary["targets"]
  values = {tuple(row.split(",")[:2]): float(row.split(",")[2]) for row in rows}
  assert target["gbops"] == pytest.approx(sum(values[name, str(bits)] for name, bits in target["bits"].items()))
  assert target["gbops"] <= 18.0 and (summary["cost_name"], summary["cost_unit"]) == ("energy", "mJ")
  run = saved_run.read(tmp_path / "run")
  assert run.target_results[0].gbops == target["gbops"] and run.unit == "mJ"
  lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
  costs = [json.loads(line)["search/18/gbops"] for line in lines if "search/18/gbops" in line]
  assert costs and all(6 <= cost <= 30 for cost in costs)
  text = page.write(tmp_path / "run").read_text()
  assert "<th>cost [mJ]</th>" in text and "GBOPs" not in text and "Cost of one image [mJ]" in tables.format_table(run)
  table.write_text(table.read_text().replace(rows[0], rows[0] + "1"))
  with pytest.raises(UserError, match="holds a run with other costs: those of layer block_00/depthwise were"):
    experiment.run(prepare(config), tmp_path / "run")
