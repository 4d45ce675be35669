"""Settings of the search: the config of each trial, which trials are made, and the table."""

import json

import jax
import ml_collections
import numpy as np
import pytest

from metamix_jax import config as config_rules
from metamix_jax.config_file import load_config
from metamix_jax.method.selection import select_within_target
from metamix_jax.records.alpha import read_alpha
from metamix_jax.training import context as contexts
from metamix_jax.training import phases
from tests.helpers.claims import search_settings
from tests.helpers.configs import middle_target, tiny_config
from tests.helpers.files import ROOT
from tests.helpers.interrupted_runs import parameters


def test_every_setting_is_a_valid_config():
  of_run = load_config(ROOT / "configs" / "digit_pairs.py")
  settings = load_config(ROOT / "configs" / "search_settings.py").settings
  configs = {words: search_settings.config_with(of_run, changes, 0.075) for words, changes in settings}
  for config in configs.values():
    config_rules.validate(config)
    assert config.arch.target_gbops == 0.075 and config.arch.train_targets == ()
  assert configs["alpha's rate 1e-1"].arch.learning_rate == 0.1
  assert configs["a limit with a multiplier instead of the penalty"].arch.at_most == ("bops=0.075",)
  assert configs["twice the steps"].bit_selection.epochs == 10
  assert of_run.arch.target_gbops == (0.07, 0.08, 0.09)
  # One field at a time, and none as it is.
  assert len({json.dumps(config.to_dict(), default=str) for config in configs.values()}) == len(configs)


def test_searches_are_made_once_and_compared_with_the_first(data_dir, tmp_path, monkeypatch):
  """A run's own search beside three settings; a later start makes only what is missing."""
  from metamix_jax import experiment

  config = tiny_config(data_dir)
  config.arch.train_targets, target = (), middle_target(config)
  config.arch.target_gbops = target
  experiment.run(contexts.prepare(config), tmp_path / "run")
  before = parameters(tmp_path / "run", "bit_selection")
  settings = ml_collections.ConfigDict({
      "targets": (target,), "num_resamples": 100, "common": (("arch.target_tolerance", 0.2),),
      "settings": (("as it is", ()), ("fast", (("arch.learning_rate", 0.5),)),
                   ("close", (("arch.target_tolerance", 0.03),)))})
  searched, search = [], phases.search_bits
  monkeypatch.setattr(phases, "search_bits", lambda context, *rest: (
      searched.append(context.config.arch.learning_rate), search(context, *rest))[1])
  for _ in range(2):
    search_settings.measure(tmp_path / "run", settings, tmp_path / "results")
  assert searched == [config.arch.learning_rate, 0.5, config.arch.learning_rate]
  results = json.loads((tmp_path / "results" / f"seed_{config.seed}.json").read_text())["searches"]
  assert [result["setting"] for result in results] == ["as it is", "fast", "close", search_settings.OWN]
  first, fast, close, own = results
  # What a setting has of its own wins over what is common.
  assert first["changes"] == own["changes"] == [["arch.target_tolerance", 0.2]]
  assert fast["changes"] == [["arch.target_tolerance", 0.2], ["arch.learning_rate", 0.5]]
  assert close["changes"] == [["arch.target_tolerance", 0.03]]
  assert first["difference"] == 0 and first["interval"] == [0, 0]
  assert fast["difference"] == pytest.approx(fast["loss"] - first["loss"], abs=1e-6)
  assert fast["interval"][0] <= fast["difference"] <= fast["interval"][1]
  layers = contexts.prepare(config).network.layers
  alpha = read_alpha(tmp_path / "run", layers)[target]
  assert own["bits"] == select_within_target(layers, alpha, target, 0.2)
  assert all(0.8 * target <= result["gbops"] <= target for result in results)
  after = parameters(tmp_path / "run", "bit_selection")
  jax.tree.map(np.testing.assert_array_equal, after, before)


def test_the_table():
  def search(seed, target, setting, difference, interval, top1):
    return {"seed": seed, "target": target, "setting": setting, "difference": difference, "interval": interval,
            "top1": top1, "gbops": 0.98 * target}

  searches = [search(seed, target, "shipped", 0.0, [0.0, 0.0], 80.0) for seed in (1, 2) for target in (0.1, 0.2)] + [
      search(1, 0.1, "fast", -0.02, [-0.03, -0.01], 81.0), search(1, 0.2, "fast", 0.0, [-0.01, 0.01], 80.0),
      search(2, 0.1, "fast", 0.03, [0.01, 0.05], 79.0), search(2, 0.2, "fast", 0.01, [-0.01, 0.03], 79.5)]
  rows = search_settings.table(searches, ["shipped", "fast", "not tried"]).splitlines()[2:]
  # Means of the seeds: -0.01 and 0.02, so 0.005 -+ 12.7062 * 0.0212132 / sqrt(2).
  assert rows == [
      "| shipped | 4 | +0.0000 [+0.0000, +0.0000] | +0.00 | 0, 4, 0 | 98.0 % |",
      "| fast | 4 | +0.0050 [-0.1856, +0.1956] | -0.12 | 1, 2, 1 | 98.0 % |"]
