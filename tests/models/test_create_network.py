"""Networks by name: what a name and its options may be, each mistake in one sentence."""

import dataclasses

from flax import linen as nn
import jax.numpy as jnp
import pytest

from metamix_jax.errors import UserError
from metamix_jax.models import NETWORKS, create_network
from metamix_jax.models.mobilenet_v3 import SMALL_BLOCKS
from metamix_jax.models.options import RULES
from metamix_jax.nn.scheme import QuantizationScheme

SCHEME = QuantizationScheme((3, 4, 8), 4, 8)


class Narrow(nn.Module):
  num_classes: int
  scheme: QuantizationScheme
  widths: tuple[int, ...]


class NoScheme(nn.Module):
  num_classes: int


class NoHash(nn.Module):
  num_classes: int
  scheme: QuantizationScheme
  widths: list = dataclasses.field(default_factory=list)


HERE = "tests.models.test_create_network"


@pytest.mark.parametrize("name, options, sentence", [
    (f"{HERE}:Narrow", {}, f"config.network.options.widths is missing; {HERE}:Narrow needs it"),
    (f"{HERE}:Narrow", {"width": 1}, f"options.width is not a field of {HERE}:Narrow; allowed are widths"),
    (f"{HERE}:NoScheme", {}, f"config.network.name is '{HERE}:NoScheme', which has no field 'scheme'"),
    (f"{HERE}:Missing", {}, f"{HERE} has no class Missing"),
    (f"{HERE}:SCHEME", {}, f"{HERE} has no class SCHEME"),
    ("tests.missing:Net", {}, "tests.missing is not found; allowed is a module of the current folder or an installed"),
    (f"{HERE}:NoHash", {}, f"config.network.name is '{HERE}:NoHash', whose fields cannot be hashed; allowed in"),
    (":Net", {}, "config.network.name is ':Net'; allowed is 'package.module:Class'"),
    (".own:Net", {}, "config.network.name is '.own:Net'; allowed is 'package.module:Class'"),
])
def test_names_and_options(name, options, sentence):
  with pytest.raises(UserError, match=sentence):
    create_network(name, 5, SCHEME, options)


def test_an_import_error_inside_a_users_module_keeps_its_traceback(tmp_path, monkeypatch):
  (tmp_path / "needs_something.py").write_text("import a_package_that_is_missing\n")
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(ModuleNotFoundError, match="a_package_that_is_missing") as error:
    create_network("needs_something:Net", 5, SCHEME, {})
  assert not isinstance(error.value, UserError)


@pytest.mark.parametrize("widths", [[8, 16], {"a": 8}, (8, [16]), jnp.float32, nn.relu, b"8", ((8, jnp.tanh),)])
def test_options_that_config_json_cannot_keep_are_refused(widths):
  with pytest.raises(UserError) as error:
    create_network(f"{HERE}:Narrow", 5, SCHEME, {"widths": widths})
  assert str(error.value) == (
      f"config.network.options is {({'widths': widths})}; allowed are numbers, words and tuples of them.")


def test_every_option_of_this_packages_networks_has_a_rule_and_its_default_obeys():
  for network in NETWORKS.values():
    module = network(num_classes=5, scheme=SCHEME)
    options = {
        field.name: getattr(module, field.name) for field in dataclasses.fields(module)
        if field.name not in ("num_classes", "scheme", "parent", "name")}
    assert set(options) == set(RULES[type(module)])
    assert all(RULES[type(module)][name].holds(value) for name, value in options.items())


COUNT, RATE, FLAG = "a positive integer", "a number from 0 up to, not including, 1", "True or False"
V2_ROWS = "a tuple of rows, each of four positive integers: expansion factor, output channels, repeats, stride"
V3_ROWS = (
    "a tuple of rows, each of six values: odd kernel size, expanded channels, output channels, True or False for "
    "squeeze and excitation, activation ('relu' or 'hard_swish'), stride")
ROW = SMALL_BLOCKS[0]


def wrong_in_row(column, value):
  return ((*ROW[:column], value, *ROW[column + 1:]),)


@pytest.mark.parametrize("name, option, values, words", [
    ("mobilenet_v2", "blocks", [
        ((1, 16, 1),), ((1, 16, 1, 1, 1),), (1, 16, 1, 1), ((1, 16, 0, 1),), ((1.0, 16, 1, 1),), ((True, 16, 1, 1),),
        ((1, 16, 1, -1),), 3], V2_ROWS),
    ("mobilenet_v2", "width_multiplier", [0, -1.0, float("nan"), float("inf"), "1"], "a number above 0"),
    ("mobilenet_v2", "stem_stride", [0], COUNT),
    ("mobilenet_v2", "stem_channels", [16.0], COUNT),
    ("mobilenet_v2", "last_channels", [None], COUNT),
    ("mobilenet_v2", "dropout_rate", [1.5, 1, -0.1, float("nan"), True], RATE),
    ("mobilenet_v3_large", "blocks", [
        (ROW[:5],), *(wrong_in_row(column, value) for column, value in (
            (0, 4), (0, 0), (1, 0), (2, 16.0), (3, 1), (4, "swish"), (4, 1), (5, 0)))], V3_ROWS),
    ("mobilenet_v3_large", "penultimate_weight_bits", [1, 0, 9, 4.0], "an integer from 2 to 8, or None"),
    ("mobilenet_v3_small", "last_channels", [0], COUNT),
    ("mobilenet_v3_small", "stem_channels", ["16"], COUNT),
    ("mobilenet_v3_small", "stem_stride", [False], COUNT),
    ("mobilenet_v3_small", "dropout_rate", [1.5], RATE),
    ("resnet18", "stages", [(2, 0), 2, (2.0,), ((2, 2),)], "a tuple of positive integers, one for each stage"),
    ("resnet18", "bottleneck", [1], FLAG),
    ("resnet50", "width", [0], COUNT),
    ("resnet50", "stem_kernel", [2, -3], "a positive odd integer"),
    ("resnet50", "stem_stride", [1.5], COUNT),
    ("resnet101", "stem_pool", ["no"], FLAG),
])
@pytest.mark.parametrize("section", ["network", "teacher"])
def test_a_wrong_value_of_an_option_is_one_sentence(name, option, values, words, section):
  for value in values:
    with pytest.raises(UserError) as error:
      create_network(name, 5, SCHEME, {option: value}, section)
    assert str(error.value) == f"config.{section}.options.{option} is {value!r}; it must be {words}."


def test_options_of_a_class_named_by_its_module_have_its_rules():
  with pytest.raises(UserError, match="config.network.options.width is 0; it must be a positive integer"):
    create_network("metamix_jax.models.resnet:ResNet", 5, SCHEME, {"width": 0})
