"""A run goes on with other settings where no number depends on them, and with no others."""

import json
import logging
import shutil

import jax
import numpy as np
import pytest

from metamix_jax import config as config_rules
from metamix_jax import experiment
from metamix_jax.config_file import flatten
from metamix_jax.errors import UserError
from metamix_jax.nn.scheme import LSQ
from metamix_jax.records.interruption import Interrupted
from metamix_jax.records.workdir import CHANGEABLE, check_workdir
from metamix_jax.training.context import prepare
from metamix_jax.training.saved_search import open_run
from tests.helpers.configs import tiny_config
from tests.helpers.files import load_script
from tests.helpers.interrupted_runs import StopAfter, parameters

# Every field that may change, with another value than tiny_config has.
OTHER_VALUES = {
    "arch.train_targets": (0.0008,), "checkpoints.every_steps": 1, "checkpoints.max_to_keep": 1,
    "data.data_dir": "moved", "data.num_threads": 1,
    "log_every_seconds": 0.01, "metrics.alarm_records": 1, "metrics.every_steps": 3, "metrics.tensorboard": False,
    "teacher.kept_gigabytes": 0.5, "teacher.kept_targets": "kept"}


@pytest.fixture
def lines(caplog):
  """The lines of our logger that begin with "config: "."""
  caplog.set_level(logging.INFO, logger="metamix_jax")
  return lambda: [line for line in caplog.messages if line.startswith("config: ")]


def test_every_field_that_may_change_has_another_value_here():
  assert set(OTHER_VALUES) == set(CHANGEABLE) and set(CHANGEABLE) < set(config_rules.RULES)


@pytest.mark.slow
def test_a_run_goes_on_with_other_settings_to_the_same_network(data_dir, tmp_path, lines):
  """Stopped in the search, and with its data in another folder then."""
  config = tiny_config(data_dir)
  config.evaluate_every_epochs = 1
  whole = experiment.run(prepare(config), tmp_path / "whole")
  with pytest.raises(Interrupted, match="stopped after step 3/10 of bit_selection"):
    experiment.run(prepare(config), tmp_path / "run", StopAfter(8))
  saved = (tmp_path / "run" / "config.json").read_text()
  assert json.loads(saved) == json.loads(json.dumps(flatten(config)))
  assert lines() == []
  shutil.copytree(data_dir, tmp_path / "moved")
  config.update_from_flattened_dict(OTHER_VALUES | {
      "data.data_dir": str(tmp_path / "moved"), "teacher.kept_targets": str(tmp_path / "kept")})
  summary = experiment.run(prepare(config), tmp_path / "run")
  for name in ("full_precision_top1", "targets", "uniform", "best", "activation_stability"):
    assert summary[name] == whole[name]
  jax.tree.map(np.testing.assert_array_equal, parameters(tmp_path / "run"), parameters(tmp_path / "whole"))
  assert summary["config"]["log_every_seconds"] == 0.01
  assert (tmp_path / "run" / "config.json").read_text() == saved
  line, = lines()
  assert line.startswith("config: since the first start, arch.train_targets was None and is [0.0008]; ")
  assert line.count(" was ") == len(CHANGEABLE)
  assert f"data.data_dir was '{data_dir}' and is '{tmp_path / 'moved'}'; data.num_threads was 0 and is 1" in line


@pytest.mark.parametrize("name", sorted(set(config_rules.RULES) - set(CHANGEABLE)) + list(config_rules.FREE_SECTIONS))
def test_no_other_field_may_change(name, tmp_path):
  config = tiny_config("data")
  check_workdir(config, tmp_path)
  path = tmp_path / "config.json"
  fields = json.loads(path.read_text())
  path.write_text(json.dumps(fields | {name: "of another run"}))
  with pytest.raises(UserError, match=f"holds a run of another config: {name} is 'of another run' there and "):
    check_workdir(config, tmp_path)


def test_a_folder_of_a_version_that_did_not_save_a_field_that_may_change_goes_on(tmp_path, lines):
  config = tiny_config("data")
  check_workdir(config, tmp_path)
  path = tmp_path / "config.json"
  fields = json.loads(path.read_text())
  del fields["arch.train_targets"]
  path.write_text(json.dumps(fields))
  check_workdir(config, tmp_path)
  assert lines() == []


def test_a_run_does_not_go_on_with_another_quantizer(data_dir, tmp_path):
  """config.json does not know of it; whoever looks at the folder afterwards is told."""
  names = ["metamix_jax.method.quantizers.fake_quantize", "metamix_jax.method.bit_mixture.mix_bit_widths"]
  (tmp_path / "network.json").write_text(json.dumps({"layers": [], "quantizer": names}))
  plain = load_script("benchmarks/plain_quantizers").PLAIN
  replaced = prepare(tiny_config(data_dir), quantizer=plain)
  assert replaced.network.module.scheme.quantizer == plain
  sentence = f"holds a run with another quantizer: it was {', '.join(names)} and is .*fake_quantize, .*mix_bit"
  with pytest.raises(UserError, match=sentence):
    experiment.run(replaced, tmp_path)
  with pytest.raises(UserError, match=sentence):
    open_run(tmp_path, plain)
  assert open_run(tmp_path).quantizer == LSQ
