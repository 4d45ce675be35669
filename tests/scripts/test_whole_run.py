"""What a whole run takes, from the steps that were measured, worked by hand."""

import copy

import pytest

from metamix_jax.config_file import load_config
from metamix_jax.errors import UserError
from tests.helpers.files import ROOT, load_script

phase_times = load_script("benchmarks/phase_times")


@pytest.fixture
def config():
  config = copy.deepcopy(load_config(ROOT / "configs" / "digits.py"))
  config.arch.target_gbops, config.arch.train_targets = (0.02, 0.025, 0.03), (0.025, 0.03)
  config.pretraining.epochs = 0
  config.bit_selection.epochs, config.bit_selection.meta_only_epochs = 5, 2
  config.stage_a.epochs, config.stage_b.epochs = 2, 7
  return config


SECONDS = {"F: full precision": 1.0, "bit-meta": 4.0, "bit-search": 2.0, "stage A": 1.5, "stage B": 2.0,
           "T: teacher": 0.5}


def test_each_trained_target_goes_through_both_stages(config):
  """5 bit-meta and 3 searches of 3 targets, which one step takes; then two targets at 2 and 7 epochs."""
  phases = phase_times.phases_of(config)
  assert [(phase.name, dict(phase.epochs)) for phase in phases] == [
      ("bit selection", {"bit-meta": 5, "bit-search": 3, "T: teacher": 5}),
      ("stage A", {"stage A": 4, "T: teacher": 4}), ("stage B", {"stage B": 14, "T: teacher": 14})]
  assert [phase_times.time_of(phase, SECONDS) for phase in phases] == [(28.5, 2.5), (8.0, 2.0), (35.0, 7.0)]


def test_all_targets_are_trained_by_default_and_labels_take_no_pass(config):
  config.arch.train_targets, config.teacher.name, config.pretraining.epochs = None, "labels", 16
  assert [(phase.name, dict(phase.epochs)) for phase in phase_times.phases_of(config)] == [
      ("pretraining", {"F: full precision": 16}), ("bit selection", {"bit-meta": 5, "bit-search": 3}),
      ("stage A", {"stage A": 6}), ("stage B", {"stage B": 21})]
  config.arch.target_gbops, config.bits_from = 0.025, "selected_bits.json"
  assert [(phase.name, dict(phase.epochs)) for phase in phase_times.phases_of(config)] == [
      ("pretraining", {"F: full precision": 16}), ("stage A", {"stage A": 2}), ("stage B", {"stage B": 7})]


def test_a_file_of_another_config_is_refused(config):
  facts = {"network": "mobilenet_v2", "image_size": 16, "compute_dtype": "float32", "matmul_precision": "highest",
           "teacher": "student", "targets": 3}
  phase_times.check_measured(config, facts)
  with pytest.raises(UserError, match="^the file was measured with targets 1 and the config has 3; measure the config"):
    phase_times.check_measured(config, facts | {"targets": 1})


def test_a_step_that_was_not_measured_is_named(config):
  seconds = {name: value for name, value in SECONDS.items() if name != "T: teacher"}
  with pytest.raises(UserError, match="^the file has no 'T: teacher', which the bit selection takes; measure it with"):
    phase_times.time_of(phase_times.phases_of(config)[0], seconds)
  benchmark = {"steps": {"bit-meta": {"images_per_second": 4.0}}}
  assert phase_times.seconds_of_an_image(benchmark) == {"bit-meta": 0.25}
