"""Config files: what a fork writes, how the command line overrides them, and what becomes of their mistakes."""

import os
import pathlib
import subprocess
import sys
import traceback

from absl import flags
import ml_collections
from ml_collections import config_flags
import pytest

from metamix_jax import command_line
from metamix_jax import config as config_rules
from metamix_jax.config_file import flatten, load_config
from metamix_jax.errors import UserError
from metamix_jax.reporting import sweep
from metamix_jax.training.context import penalty_weights

ROOT = pathlib.Path(__file__).parent.parent
DIGITS = ROOT / "configs" / "digits.py"

# All that a fork needs to write: it may lie in any folder.
FORK = f'''"""Digits at twice the resolution."""
from metamix_jax.config_file import load_config

def get_config():
  config = load_config({str(DIGITS)!r})
  config.data.image_size = 32
  config.arch.target_gbops = 0.1
  return config
'''


def write(path, text):
  path.write_text(text)
  return path


def test_a_config_of_eight_lines_in_another_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert len(FORK.splitlines()) == 8
  write(tmp_path / "own.py", FORK)
  ours, digits = flatten(load_config("own.py")), flatten(load_config(DIGITS))
  assert {name: ours[name] for name in ours if ours[name] != digits[name]} == {
      "data.image_size": 32, "arch.target_gbops": 0.1}
  config_rules.validate(load_config("own.py"))
  write(tmp_path / "wrong.py", FORK.replace("image_size", "image_sze"))
  with pytest.raises(AttributeError, match="image_sze"):  # Locked: a wrong name is not a new field.
    load_config("wrong.py")


def test_sections_that_a_config_puts_in_are_locked():
  assert load_config(DIGITS).network.options.is_locked
  with pytest.raises(AttributeError, match="stem_chanels"):
    load_config(DIGITS).network.options.stem_chanels = 8


@pytest.mark.parametrize("text, sentence", [
    (None, r"^the config file '.*own.py' cannot be read: No such file or directory\.$"),
    ("config = 3", r"own.py' has no function get_config\(\)\.$"),
    ("def get_config(): pass", r"^get_config\(\) of the config file .*' returns None; it must return a ConfigDict\.$"),
    ("def get_config(one): pass", r"own.py' cannot be called with \(\): missing a required argument: 'one'\.$"),
])
def test_what_is_not_a_config_file_is_one_sentence(text, sentence, tmp_path):
  if text is not None:
    write(tmp_path / "own.py", text)
  with pytest.raises(UserError, match=sentence):
    load_config(tmp_path / "own.py")


@pytest.fixture
def parse(monkeypatch):
  """Parses --config and its overrides as a command does, without the flags of other commands; the config."""
  def parse(*arguments, config=DIGITS):
    argv = ["test", f"--config={config}", *arguments]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "The config.", flag_values=values, sys_argv=argv)
    monkeypatch.setattr(flags, "FLAGS", values)
    command_line.flags_parser("test")(argv)
    return values["config"].value

  return parse


@pytest.mark.parametrize("argument, name, value", [
    ("pretraining.weights=None", "pretraining.weights", None),
    ("pretraining.weights=weights/None", "pretraining.weights", "weights/None"),
    ("teacher.weights=None", "teacher.weights", None),
    ("bits_from=None", "bits_from", None),
    ("bits_from=2024", "bits_from", "2024"),
    ("data.data_dir=None", "data.data_dir", None),
    ("data.evaluation_short_side=None", "data.evaluation_short_side", None),
    ("data.evaluation_short_side=18", "data.evaluation_short_side", 18),
    ("arch.train_targets=None", "arch.train_targets", None),
    ("arch.train_targets=(0.025,)", "arch.train_targets", (0.025,)),
    ("arch.train_targets=()", "arch.train_targets", ()),
    ("arch.target_gbops=(0.02,0.03)", "arch.target_gbops", (0.02, 0.03)),
    ("arch.target_gbops=0.03", "arch.target_gbops", 0.03),
    ("data.mean=(0.4,)", "data.mean", (0.4,)),
    ("quantization.candidate_bits=(4, 8)", "quantization.candidate_bits", (4, 8)),
    ("quantization.layer_bits={'*/depthwise': (4, 8), 'head': 8, 'stem': None}", "quantization.layer_bits", {
        "*/depthwise": (4, 8), "head": 8, "stem": None}),
    ("arch.initial_std=1e-2", "arch.initial_std", 0.01),
    ("network.options.stem_channels=8", "network.options", {
        "stem_stride": 1, "stem_channels": 8, "blocks": ((1, 16, 1, 1), (4, 24, 2, 2), (4, 32, 2, 2)),
        "last_channels": 128}),
])
def test_values_on_the_command_line(parse, argument, name, value):
  digits, config = load_config(DIGITS), parse(f"--config.{argument}")
  config_rules.validate(config)
  assert flatten(config) == flatten(digits) | {name: value}


def test_none_in_the_grid_of_a_sweep(tmp_path, monkeypatch):
  monkeypatch.chdir(ROOT)
  values = (None, "weights/mobilenet_v2")
  plan = ml_collections.ConfigDict(dict(base="configs/digits.py", grid=dict(pretraining=dict(weights=values))))
  runs = sweep.plan(plan, tmp_path)
  assert [run.config.pretraining.weights for run in runs] == list(values)
  assert runs[0].arguments[-1] == "--config.pretraining.weights=None"
  with pytest.raises(UserError, match="^config.seed is None; it must be an integer from 0 to 4294967295"):
    sweep.plan(ml_collections.ConfigDict(dict(base="configs/digits.py", grid=dict(seed=(None,)))), tmp_path)


def test_none_where_the_config_file_has_a_value(parse):
  config = parse(
      "--config.pretraining.weights=None", "--config.data.evaluation_short_side=None",
      config=f"{ROOT}/configs/imagenet.py:resnet18")
  assert config.pretraining.weights is None and config.data.evaluation_short_side is None
  assert config.network.name == "resnet18" and config.teacher.weights == "weights/resnet101"


def test_lambda_of_the_imagenet_configs_does_not_depend_on_the_target(parse):
  """M11's lambda is 4 in nats for one GBOP, whatever the command line sets."""
  imagenet = f"{ROOT}/configs/imagenet.py:mobilenet_v2"
  for target, count in (("5.12", 1), ("4.5", 1), ("(4.0, 5.12, 6.0)", 3)):
    config = parse(f"--config.arch.target_gbops={target}", config=imagenet)
    config_rules.validate(config)
    assert penalty_weights(config) == (4.0,) * count
  config = parse(
      "--config.arch.penalty_weight=None", "--config.arch.relative_penalty_weight=18", "--config.arch.target_gbops=4.5",
      config=imagenet)
  assert penalty_weights(config) == (4.0,)
  assert penalty_weights(parse("--config.arch.target_gbops=0.05")) == (13.24 / 0.05,)


@pytest.mark.parametrize("argument, sentence", [
    ("--config.arch.target_gbop=1", "test: unknown config field arch.target_gbop; known fields are arch.at_most, "
     "arch.beta1, arch.beta2, arch.cost, arch.epsilon, arch.final_learning_rate, arch.initial_std, arch.l2, "
     "arch.learning_rate, arch.multiplier_learning_rate, arch.penalty_weight, arch.relative_penalty_weight, "
     "arch.target_gbops, arch.target_tolerance, arch.train_targets.\n"),
    ("--config.network.options.stem=1", "test: unknown config field network.options.stem; known fields are "
     "network.options.blocks, network.options.last_channels, network.options.stem_channels, "
     "network.options.stem_stride.\n"),
    ("--config.seed.x=1", "test: unknown config field seed.x; known fields are "),
    ("--config.seed=one", "test: flag --config.seed=one: invalid literal for int() with base 10: 'one'\n"),
    ("--wrkdir=x", "test: Unknown command line flag 'wrkdir'"),
])
def test_a_wrong_flag_is_one_sentence(parse, capsys, argument, sentence):
  with pytest.raises(SystemExit) as ended:
    parse(argument)
  output, errors = capsys.readouterr()
  assert ended.value.code == 2 and output == ""
  assert errors.startswith(sentence) and errors.count("\n") == 1 and errors.endswith("\n")


@pytest.mark.parametrize("statement, kind", [
    ("config.sed = 1", AttributeError), ("{}['a']", KeyError), ("int('x')", ValueError), ("len(3)", TypeError),
    ("open('/nowhere/file')", FileNotFoundError), ("1 / 0", ZeroDivisionError)])
def test_a_config_file_that_raises_keeps_its_file_and_line(parse, tmp_path, statement, kind):
  path = write(tmp_path / "own.py", FORK.replace("config.data.image_size = 32", statement))
  with pytest.raises(kind) as caught:
    parse("--config.seed=1", config=path)
  frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(caught.value.__traceback__)]
  assert (str(path), 6) in frames


@pytest.mark.parametrize("config, sentence", [
    ("nowhere.py", "test: the config file 'nowhere.py' cannot be read: No such file or directory.\n"),
    ("", "test: the path of the config file is empty; it must be a Python file with get_config()."),
    (f"{ROOT}/configs/imagenet.py:resnet19", "test: --config=configs/imagenet.py:resnet19 is not an experiment; "),
])
def test_a_mistake_that_a_config_file_names_is_one_sentence(parse, capsys, config, sentence):
  with pytest.raises(SystemExit) as ended:
    parse(config=config)
  errors = capsys.readouterr().err
  assert ended.value.code == 2 and errors.startswith(sentence) and errors.count("\n") == 1


def test_only_a_user_error_ends_a_command_in_one_sentence(capsys):
  @command_line.exit_on_user_error("test")
  def main(error):
    raise error

  with pytest.raises(SystemExit) as ended:
    main(UserError("config.seed is -1."))
  assert ended.value.code == 2 and capsys.readouterr() == ("", "test: config.seed is -1.\n")
  with pytest.raises(ValueError, match="shapes differ"):
    main(ValueError("shapes differ"))
  assert capsys.readouterr() == ("", "")


NETWORK = '''"""A network with a mistake in its __call__."""
import flax.linen as nn
import jax.numpy as jnp
from metamix_jax import QuantConv, QuantizationScheme

class Wrong(nn.Module):
  num_classes: int
  scheme: QuantizationScheme

  @nn.compact
  def __call__(self, x, train):
    return x + jnp.ones((7, 7))
'''


@pytest.mark.slow
@pytest.mark.parametrize("command", [["scripts/bops.py"], ["-m", "metamix_jax.main", "--workdir=run"]])
def test_a_programming_error_in_a_network_keeps_its_traceback(command, tmp_path):
  path = write(tmp_path / "wrong_network.py", NETWORK)
  write(tmp_path / "own.py", FORK.replace(
      "config.data.image_size = 32",
      "config.network.name = 'wrong_network:Wrong'; config.network.options = type(config)()"))
  result = subprocess.run(
      [sys.executable, *(str(ROOT / part) if part.startswith("scripts") else part for part in command),
       "--config=own.py"], capture_output=True, text=True, cwd=tmp_path, check=False,
      env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)]), "XLA_FLAGS": ""})
  assert result.returncode == 1
  assert "Traceback" in result.stderr and f'File "{path}", line 12' in result.stderr
  assert "\nValueError: Incompatible shapes for broadcasting" in result.stderr
