"""~ is the home folder in every path that a user gives, and a URL is not a folder of a run."""

import pathlib
import subprocess
import sys

import pytest

from metamix_jax import experiment
from metamix_jax.config import RULES
from metamix_jax.config_file import flatten
from metamix_jax.errors import UserError
from metamix_jax.records.paths import PATH_FIELDS, expand_paths, local_folder, local_path
from tests.helpers.configs import tiny_config
from tests.helpers.files import ROOT


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  return tmp_path


@pytest.mark.parametrize("url", ["gs://bucket/run", "s3://bucket/run", "file:///tmp/run", "hdfs://host/run"])
def test_a_url_is_one_sentence_also_as_a_path(url, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  sentence = "^workdir .+ is a URL; allowed are paths of a file system, so mount the bucket or choose a local path.$"
  with pytest.raises(UserError, match=sentence):
    local_folder(url)
  with pytest.raises(UserError, match=sentence):
    experiment.run(None, pathlib.Path(url))
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text, folder", [
    ("~/runs/digits", "HOME/runs/digits"), ("~", "HOME"), ("runs/~", "runs/~"), ("/runs/a:b", "/runs/a:b"),
    ("arch.target_gbops=1,seed=0", "arch.target_gbops=1,seed=0"), ("C:/runs", "C:/runs")])
def test_other_folders_are_as_they_are_written(text, folder, home):
  assert local_folder(text) == pathlib.Path(folder.replace("HOME", str(home)))


def test_an_empty_flag_is_no_folder():
  with pytest.raises(UserError, match="^workdir is empty; it must be a path.$"):
    local_folder("")


def test_a_path_is_named_as_its_field_or_flag(home):
  assert local_path("~/table.csv", "--csv") == home / "table.csv"
  with pytest.raises(UserError, match="^--csv gs://bucket/table.csv is a URL; allowed are paths of a file system"):
    local_path("gs://bucket/table.csv", "--csv")
  with pytest.raises(UserError, match="^config.teacher.kept_targets is empty; it must be a path.$"):
    local_path("", "config.teacher.kept_targets")


def test_every_path_of_a_config_is_expanded(home):
  config = tiny_config("~/data")
  for name in PATH_FIELDS:
    config.update_from_flattened_dict({name: f"~/{name}"})
  expanded = flatten(expand_paths(config))
  assert {name: expanded[name] for name in PATH_FIELDS} == {
      "arch.cost": f"{home}/arch.cost", "bits_from": f"{home}/bits_from", "data.data_dir": f"{home}/data.data_dir",
      "meta_state_from": f"{home}/meta_state_from", "pretraining.weights": f"{home}/pretraining.weights",
      "teacher.kept_targets": f"{home}/teacher.kept_targets", "teacher.weights": f"{home}/teacher.weights"}
  assert {name: value for name, value in expanded.items() if name not in PATH_FIELDS} == {
      name: value for name, value in flatten(config).items() if name not in PATH_FIELDS}
  assert config.data.data_dir == "~/data.data_dir"
  assert {name for name, rule in RULES.items() if "a path" in rule.words} == set(PATH_FIELDS)


def test_a_config_without_home_is_the_same_object():
  config = tiny_config("/data/~")
  assert expand_paths(config) is config


@pytest.mark.parametrize("command", [
    ("-m", "metamix_jax.main", "--config=configs/digits.py", "--config.data.data_dir=~/data"),
    ("scripts/sweep.py", "--config=configs/sweeps/digits_targets.py")])
def test_the_commands_refuse_a_url(command):
  result = subprocess.run(
      [sys.executable, *command, "--workdir=gs://bucket/run"], capture_output=True, text=True, cwd=ROOT, check=False)
  assert result.returncode == 2 and not (ROOT / "gs:").exists()
  assert result.stderr.count("\n") == 1
  assert "workdir gs://bucket/run is a URL; allowed are paths of a file system" in result.stderr
