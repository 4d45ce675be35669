"""The fields of the configs, their rules, and the sentences for values that break them."""

import ast
import pathlib

import ml_collections
import pytest

from metamix_jax import config as config_rules
from metamix_jax.config_file import flatten, load_config
from metamix_jax.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent
DIGITS = ROOT / "configs" / "digits.py"

def assignments(path):
  """("section.field", line number) of each assignment of a config file."""
  tree = ast.parse(path.read_text())
  targets = [target for node in ast.walk(tree) if isinstance(node, ast.Assign) for target in node.targets]
  attributes = [target for target in targets if isinstance(target, ast.Attribute)]
  return [(ast.unparse(target).removeprefix("config."), target.lineno) for target in attributes]


def leaves(fields):
  return {name for name in fields if name not in config_rules.FREE_SECTIONS}


def test_the_base_has_every_field_once_with_a_comment():
  base = load_config(ROOT / "configs" / "base.py")
  assert leaves(flatten(base)) == set(config_rules.RULES)
  lines = (ROOT / "configs" / "base.py").read_text().splitlines()
  names = assignments(ROOT / "configs" / "base.py")
  assert len(names) == len({name for name, _ in names})
  for name, line in names:
    if name in config_rules.RULES:
      assert "  # " in lines[line - 1] or lines[line - 2].strip().startswith("# "), name


def test_digits_sets_only_what_differs_from_the_base():
  base, digits = (flatten(load_config(ROOT / "configs" / name)) for name in ("base.py", "digits.py"))
  differing = {name for name in base if base[name] != digits[name]}
  assert differing == {name for name, _ in assignments(DIGITS)}
  assert len(differing) == 29


NUMBERS = {name for name, value in flatten(load_config(DIGITS)).items()
           if isinstance(value, (int, float)) and not isinstance(value, bool)}


@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_every_number_has_a_range(name):
  rule = config_rules.RULES[name]
  for value in float("nan"), float("inf"), -float("inf"), 10**400, 1e39, -1, True, "1", (1, 1), [1]:
    if not (name == "arch.target_gbops" and value == (1, 1)):
      assert not rule.holds(value), value
  assert rule.holds(flatten(load_config(DIGITS))[name])
  if isinstance(flatten(load_config(DIGITS))[name], int):
    assert not rule.holds(2**32) and not rule.holds(1.0)


@pytest.mark.parametrize("name, good, bad", [
    ("seed", (0, 2**32 - 1), (2**32,)),
    ("evaluation_batch_size", (1, 2**20), (0, 2**20 + 1)),
    ("stage_b.epochs", (1, 100_000), (0, 100_001)),
    ("data.num_threads", (0, 4096), (4097,)),
    ("data.std", ((0.1,), (0.2, 0.3)), ((0.0,), (float("nan"),), (0.1, True), "(0.1,)", ("0.1",), 0.1)),
    ("data.mean", ((0.0,), (-1, 0.5)), ((float("inf"),), "(0.1,)", (1e39,), None)),
    ("data.crop_area", ((0.08, 1), (1, 1)), ((0.0, 1), (0.5, 1.1), (0.6, 0.5), (0.5,), (float("nan"), 1))),
    ("data.crop_aspect", ((0.75, 4 / 3),), ((0, 1), (1, float("inf")), (1, 1, 1))),
    ("data.evaluation_short_side", (None, 256), ("None", 0, 2**14 + 1, 256.0)),
    ("arch.beta2", (0, 0.999, 1 - 2**-24), (1 - 2**-26, 1, -0.1)),  # float32 rounds it to 1, and Adam divides by 0.
    ("optimizer.epsilon", (1e-8, 2.0**-126), (0, 1e-39)),
    ("arch.target_gbops", (0.1, 1, (0.1, 0.2)), (float("nan"), (0.1, float("inf")), True, 0, "0.1", (0.2, 0.1))),
    ("quantization.candidate_bits", ((2, 8),), ((True, 4), (4,), (3.0, 4), "(3, 4)", [3, 4])),
    ("quantization.layer_bits", (None, {"*": None, "a": 2, "b": (8,), "c": (3, 4)}),
     ({"a": 9}, {"a": (4, 3)}, {"a": ()}, {"a": True}, {"": 8}, {3: 8}, {"a": "8"}, {"a": [3]}, "head", (("a", 8),))),
    ("compute_dtype", ("float32", "bfloat16"), ("float16", None, 32, ["float32"])),
    ("bits_from", (None, "bits.json"), ("", 3, True)),
    ("meta_state_from", (None, "runs/digits"), ("", 3, True)),
    ("matmul_precision", ("default", "high", "highest"), ("float32", "HIGHEST", None, 3)),
    ("arch.penalty_weight", (None, 0, 4.0), (-1, float("inf"), "4", True)),
])
def test_ranges(name, good, bad):
  rule = config_rules.RULES[name]
  assert [value for value in good if not rule.holds(value)] == []
  assert [value for value in bad if rule.holds(value)] == []


def changed(values):
  config = load_config(DIGITS)
  with config.ignore_type():
    config.update_from_flattened_dict(values)
  return config


@pytest.mark.parametrize("values, sentence", [
    ({"seed": 2**32}, "config.seed is 4294967296; it must be an integer from 0 to 4294967295."),
    ({"data.name": None}, "config.data.name is None; it must be a name."),
    ({"bit_selection.meta_only_epochs": 10},
     "config.bit_selection.meta_only_epochs is 10; it must be below config.bit_selection.epochs, 10, or no bits are "
     "searched."),
    ({"arch.train_targets": (0.03,)},
     "config.arch.train_targets names 0.03; allowed are the targets of config.arch.target_gbops, 0.025."),
    ({"bits_from": "b.json", "arch.target_gbops": (0.02, 0.03)},
     "config.bits_from is b.json, which holds the bits of one target; config.arch.target_gbops has 2, and must then be "
     "a number."),
    ({"arch.penalty_weight": 4.0},
     "config.arch.penalty_weight is 4.0 and config.arch.relative_penalty_weight is 13.24; one of them must be a "
     "number, and the other None."),
    ({"arch.relative_penalty_weight": None},
     "config.arch.penalty_weight is None and config.arch.relative_penalty_weight is None; one of them must be a "
     "number, and the other None."),
    ({"pretraining.epochs": 0},
     "config.pretraining.epochs is 0 and config.pretraining.weights is None; give a file of weights, or at least 1 "
     "epoch."),
    ({"pretraining.new_classifier": True},
     "config.pretraining.new_classifier is True, with weights None and epochs 25; it needs a file of weights to start "
     "from, and at least 1 epoch to train the new classifier."),
    ({"pretraining.new_classifier": True, "pretraining.weights": "w.pth", "pretraining.epochs": 0},
     "config.pretraining.new_classifier is True, with weights 'w.pth' and epochs 0; it needs a file of weights to "
     "start from, and at least 1 epoch to train the new classifier."),
    ({"data.evaluation_short_side": 15},
     "config.data.evaluation_short_side is 15; it must be at least config.data.image_size, 16, or None."),
    ({"data.max_shift": 16}, "config.data.max_shift is 16; it must be below config.data.image_size, 16."),
    ({"teacher.name": "resnet101"},
     "config.teacher.weights is None; a teacher of its own, resnet101, needs a file of weights (or 'random', to try a "
     "config out)."),
    ({"teacher.weights": "w.pth"},
     "config.teacher.weights is 'w.pth' and config.teacher.name is 'student', which has none; give the name of the "
     "teacher's network, or None."),
    ({"teacher.name": "labels", "teacher.options": ml_collections.ConfigDict({"dropout_rate": 0.1})},
     "config.teacher.options is {'dropout_rate': 0.1} and config.teacher.name is 'labels', which has none; give the "
     "name of the teacher's network, or None."),
    ({"teacher.name": "labels", "teacher.kept_targets": "targets"},
     "config.teacher.kept_targets is 'targets' and config.teacher.name is 'labels'; labels are not kept, so it must be "
     "None."),
    ({"network.options": 3}, "config.network.options is 3; it must be a ConfigDict."),
])
def test_validate(values, sentence):
  with pytest.raises(UserError) as caught:
    config_rules.validate(changed(values))
  assert str(caught.value) == sentence


@pytest.mark.parametrize("values", [
    {"bits_from": "b.json", "bit_selection.meta_only_epochs": 10},  # Nothing is searched.
    {"bits_from": "b.json", "meta_state_from": "runs/digits", "pretraining.epochs": 0},  # Nothing is pretrained.
    {"meta_state_from": "runs/digits", "pretraining.epochs": 0},  # Likewise; bits are searched.
    {"arch.penalty_weight": 500.0, "arch.relative_penalty_weight": None},
])
def test_what_given_bits_make_superfluous(values):
  config_rules.validate(changed(values))


def test_an_unknown_or_missing_field():
  config = load_config(DIGITS)
  with config.unlocked():
    config.stage_a.epoch = 3
  with pytest.raises(UserError) as caught:
    config_rules.validate(config)
  assert str(caught.value) == (
      "unknown config field stage_a.epoch; known fields are stage_a.epochs, stage_a.learning_rate.")
  with config.unlocked():
    del config.stage_a["epoch"]
    del config.stage_a["epochs"]
  with pytest.raises(UserError, match=r"^config.stage_a.epochs is missing; it must be an integer from 1 to 100000\.$"):
    config_rules.validate(config)
