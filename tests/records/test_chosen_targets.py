"""Targets that were chosen after the search, in their file."""

import json

import pytest

from metamix_jax.errors import UserError
from metamix_jax.method.bops import LayerCost
from metamix_jax.records.chosen_targets import FILE, ChosenTarget, read_chosen_targets, write_chosen_target
from metamix_jax.records.results import TargetResult

LAYERS = (
    LayerCost("stem", 10**9, 10, (8,), 8, "conv", "signed"),
    LayerCost("a", 10**9, 10, (3, 4, 8), 4, "conv", "unsigned"))


def chosen_at(target, bits, top1, searches):
  return ChosenTarget(TargetResult(target, LAYERS, 0.1, {"a": bits}, {"a": 8}, top1), searches)


def test_what_is_written_is_what_is_read_ascending_and_once_each(tmp_path):
  assert read_chosen_targets(tmp_path, LAYERS, 0.1) == ()
  high, low = chosen_at(96.5, 8, 91.25, {90.0: 0.75, 100.0: 0.25}), chosen_at(1 / 3 + 80, 4, 90.0, {80.0: 1.0})
  for chosen in (high, low, chosen_at(96.5, 4, 1.0, {90.0: 1.0}), high):
    write_chosen_target(tmp_path, chosen, LAYERS, 0.1)
  assert read_chosen_targets(tmp_path, LAYERS, 0.1) == (low, high)
  entry = json.loads((tmp_path / FILE).read_text())["targets"][1]
  assert entry["gbops"] == 96 and entry["target_met"] is True and entry["final_top1"] is None
  assert entry["searches"] == [{"target_gbops": 90.0, "weight": 0.75}, {"target_gbops": 100.0, "weight": 0.25}]


@pytest.mark.parametrize("change", [
    lambda entry: entry.pop("bits"), lambda entry: entry["bits"].update(a=5), lambda entry: entry.pop("searches"),
    lambda entry: entry.update(searches=[{"weight": 1}]), lambda entry: entry.update(target_gbops="much")])
def test_a_damaged_file_is_one_sentence(tmp_path, change):
  write_chosen_target(tmp_path, chosen_at(96.5, 8, 91.0, {90.0: 1.0}), LAYERS, 0.1)
  values = json.loads((tmp_path / FILE).read_text())
  change(values["targets"][0])
  (tmp_path / FILE).write_text(json.dumps(values))
  with pytest.raises(UserError, match=r"chosen_targets\.json cannot be read"):
    read_chosen_targets(tmp_path, LAYERS, 0.1)
