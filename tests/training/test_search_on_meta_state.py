"""Searches on a finished meta-state: what they leave as it is, and that they are the searches of an alternation."""

import ast
import json
import re

import jax
import numpy as np
import pytest

from metamix_jax import experiment
from metamix_jax.config import check_target
from metamix_jax.method.bops import attainable_range, cost_unit
from metamix_jax.method.selection import most_probable_bits, select_within_target
from metamix_jax.records.alpha import read_alpha
from metamix_jax.records.interruption import Interrupted
from metamix_jax.records.names import trained_targets
from metamix_jax.reporting import figures, page, saved_run
from metamix_jax.training import phases
from metamix_jax.training.context import networks_without_data, prepare
from metamix_jax.training.loop import Saving
from metamix_jax.training.saved_search import load_meta_state
from tests.helpers.configs import digits_config, tiny_config
from tests.helpers.files import ROOT
from tests.helpers.interrupted_runs import StopAfter, parameters


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
  """The folder of a run with one target, without weight training."""
  config = tiny_config(data_dir)
  config.arch.train_targets = ()
  folder = tmp_path_factory.mktemp("finished") / "run"
  experiment.run(prepare(config), folder)
  return folder


def searching_config(data_dir, finished):
  config = tiny_config(data_dir)
  config.meta_state_from, config.arch.train_targets = str(finished), ()
  config.bit_selection.epochs, config.bit_selection.meta_only_epochs = 3, 1
  config.network.options.dropout_rate = 0.2
  return config


def test_it_is_the_search_of_an_alternation_whose_weights_stand_still(finished, data_dir):
  """At a learning rate of 0 the bit-meta steps change nothing that a search reads: alpha is equal to the last bit.

  The network has dropout, so the random numbers of the steps are equal as well.
  """
  config = searching_config(data_dir, finished)
  context = prepare(config)
  alone = phases.search_bits(
      context, load_meta_state(context, finished), phases.create_architectures(context), None)[1]
  context.config.bit_selection.learning_rate = 0.0  # No config may have it.
  beside = phases.select_bits(
      context, load_meta_state(context, finished), phases.create_architectures(context), None)[1]
  start = phases.create_architectures(context)
  assert any(np.any(np.asarray(alone.alpha[name]) != start.alpha[name]) for name in start.alpha)
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(alone.alpha), jax.device_get(beside.alpha))
  assert np.ravel(alone.step).tolist() == [2 * context.data.steps_per_epoch]


def test_the_meta_state_stays_as_it_is(finished, data_dir):
  context = prepare(searching_config(data_dir, finished))
  before = load_meta_state(context, finished)
  kept = jax.device_get((before.weights, before.step_sizes, before.batch_stats))
  after, _ = phases.search_bits(context, before, phases.create_architectures(context), None)
  jax.tree.map(
      np.testing.assert_array_equal, jax.device_get((after.weights, after.step_sizes, after.batch_stats)), kept)


def test_an_interrupted_one_ends_with_the_same_alpha(finished, data_dir, tmp_path):
  context = prepare(searching_config(data_dir, finished))

  def search(saving=None):
    return jax.device_get(phases.search_bits(
        context, load_meta_state(context, finished), phases.create_architectures(context), None, saving)[1].alpha)

  with pytest.raises(Interrupted, match=rf"^stopped after step 8/{3 * context.data.steps_per_epoch} of bit_selection$"):
    search(Saving(tmp_path, StopAfter(2)))  # The first one of the second epoch is step 6.
  jax.tree.map(np.testing.assert_array_equal, search(Saving(tmp_path, StopAfter(100))), search())


def test_a_run_on_it_has_targets_and_costs_of_its_own(finished, data_dir, tmp_path):
  """Two targets in bytes of activations, from the meta-state of a run for one target in GBOPs."""
  config = searching_config(data_dir, finished)
  config.pretraining.epochs = 0
  config.arch.cost, config.arch.target_tolerance = "activation_bytes", 0.1
  network, _ = networks_without_data(config)
  lowest, highest = attainable_range(network.layers)
  config.arch.target_gbops = 0.5 * (lowest + highest), 0.25 * lowest + 0.75 * highest
  summary = experiment.run(prepare(config), tmp_path)
  for result, target in zip(summary["targets"], config.arch.target_gbops, strict=True):
    assert lowest < 0.9 * target <= result["gbops"] <= target
  run = saved_run.read(tmp_path)
  for target, alpha in read_alpha(tmp_path, run.layers).items():
    result = next(result for result in run.target_results if result.target_gbops == target)
    assert result.bits == select_within_target(run.layers, alpha, target, 0.1)
    assert result.most_probable_bits == most_probable_bits(run.layers, alpha)
  for phase in ("pretraining", "bit_selection"):
    jax.tree.map(np.testing.assert_array_equal, parameters(tmp_path, phase), parameters(finished, phase))
  assert "activation_stability" not in summary and page.write(tmp_path).exists()
  losses = figures.training(run).axes[0].lines
  assert [len(line.get_xdata()) > 1 for line in losses] == [True]  # Of the mixtures; there is none by bit-width.
  lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert {line["phase"] for line in lines} == {"bit_selection"} and lines[-1]["step"] == 15
  assert all("search/" in " ".join(line) and "loss_by_candidate" not in " ".join(line) for line in lines)


def test_the_command_of_the_docs_is_a_run_that_trains():
  """With the config of the run that docs/targets.md makes first, from which configs/of_run.py takes its fields."""
  page_of_docs = (ROOT / "docs" / "targets.md").read_text()
  start = page_of_docs.index("configs/of_run.py:runs/curve --workdir=runs/curve_bytes")
  command = page_of_docs[start:page_of_docs.index("```", start)]
  changes = dict(re.findall(r"--config\.(\S+?)=(\S+)", command))
  assert changes.keys() == {"meta_state_from", "arch.cost", "arch.target_gbops", "arch.train_targets"}
  config = digits_config()
  config.arch.target_gbops = (0.019, 0.021, 0.023, 0.025, 0.028, 0.032, 0.036, 0.040)
  config.arch.train_targets = ()
  target = float(changes["arch.target_gbops"])
  config.meta_state_from, config.arch.cost, config.arch.target_gbops = "runs/curve", changes["arch.cost"], target
  config.arch.train_targets = ast.literal_eval(changes["arch.train_targets"])
  network, _ = networks_without_data(config)
  check_target(target, attainable_range(network.layers), cost_unit(network.layers))
  assert trained_targets(config) == (target,)
