"""Many budgets from one meta-state: each as in a run with that budget alone, and trained when it is asked for."""

import jax
import numpy as np
import optax
import pytest

from metamix_jax import experiment, loop, phases, task
from metamix_jax.budgets import named, targets, trained_targets
from metamix_jax.state import create_arch_states
from tests.test_experiment import data_dir, parameters, tiny_config  # pylint: disable=unused-import  The fixture.

TARGETS = (0.0007, 0.0008, 0.001)


def searched(config):
  """alpha {layer name: [K, B]} after a search of four epochs, 20 bit-search steps."""
  config.bit_selection.epochs, config.bit_selection.meta_only_epochs = 4, 0
  work = task.prepare(config)
  meta = phases.start_step_sizes(work, phases.create_student(work))
  _, archs = phases.select_bits(work, meta, phases.create_architectures(work), None)
  assert np.all(archs.step == 20) and not np.any(archs.bad_step)
  return jax.device_get(archs.alpha)


def test_each_alpha_is_that_of_its_budget_alone(data_dir):
  config = tiny_config(data_dir)
  config.arch.target_gbops = TARGETS
  together = searched(config)
  for index, target in enumerate(TARGETS):
    config.arch.target_gbops = target
    for name, alpha in searched(config).items():
      np.testing.assert_allclose(together[name][index], alpha[0], rtol=1e-5, err_msg=f"{name} at {target}")
  assert any(np.any(np.abs(alpha[0] - alpha[2]) > 0.1) for alpha in together.values())  # Targets matter.


def test_search_first_then_train_one(data_dir, tmp_path):
  """No budget is trained, then the second, then the first too: each is the network of a run with it alone."""
  config = tiny_config(data_dir)
  config.arch.target_gbops, config.arch.train_targets = TARGETS[1:], ()
  looked = experiment.run(config, tmp_path / "several")["pareto"]["budgets"]
  files = lambda: {path.name: path.stat().st_mtime_ns for path in (tmp_path / "several" / "checkpoints").glob("*.json")}
  before = files()
  assert before.keys() == {"pretraining.json", "bit_selection.json", "meta_evaluation.json"}
  assert [point["final_top1"] for point in looked] == [None, None]
  for point in looked:
    assert point["selected_gbops"] <= point["target_gbops"]
    assert (tmp_path / "several" / f"selected_bits_{point['target_gbops']:g}.json").exists()

  for chosen, new in (((0.001,), {"stage_a_0.001.json", "stage_b_0.001.json"}),
                      ((0.0008, 0.001), {"stage_a_0.0008.json", "stage_b_0.0008.json"})):
    config.arch.train_targets = chosen
    trained = experiment.run(config, tmp_path / "several")["pareto"]["budgets"]
    after = files()
    assert after.keys() - before.keys() == new
    assert {name: after[name] for name in before} == before  # What was there is not run again.
    assert [point["final_top1"] is not None for point in trained] == [point["target_gbops"] in chosen for point in looked]
    before = after

  config.arch.target_gbops, config.arch.train_targets = 0.0008, None
  alone = experiment.run(config, tmp_path / "alone")
  assert alone["pareto"]["budgets"] == trained[:1]
  jax.tree.map(np.testing.assert_array_equal, parameters(tmp_path / "several", "stage_b_0.0008"),
               parameters(tmp_path / "alone", "stage_b"))


def test_names_of_one_and_of_several(data_dir):
  config = tiny_config(data_dir)
  assert targets(config) == trained_targets(config) == (0.0008,)
  assert named("stage_a", config, 0.0008) == "stage_a"
  config.arch.target_gbops, config.arch.train_targets = (1, 2.5), (2.5, 1)
  assert trained_targets(config) == (1, 2.5)
  assert named("stage_a", config, 2.5) == "stage_a_2.5"


def test_bits_of_one_run_for_several_targets(data_dir):
  config = tiny_config(data_dir)
  config.arch.target_gbops, config.bits_from = TARGETS, "bits.json"
  with pytest.raises(ValueError, match="bits_from is bits.json, which holds the bits of one target; .* has 3, and must"):
    task.prepare(config)


def test_a_budget_that_is_not_finite_is_named(data_dir):
  work = task.prepare(tiny_config(data_dir))
  archs = create_arch_states(
      work.network, optax.sgd(1.0), seed=0, deviation=1e-3, targets_gbops=TARGETS, relative_penalty_weight=1.0)
  archs = archs.replace(bad_step=np.array([0, 3, 2], np.int32))
  steps = loop.Loop(work, "bit_selection", None)
  state = steps.start({"meta": phases.create_student(work), "arch": archs})
  with pytest.raises(ValueError, match=r"bit_selection, step 2: the bit-search \(target 0.0008, 0.001\) loss or its gradient"):
    steps.after_step(state, {})
