"""Every field of a config with any value: it is taken, or refused in one sentence that names the field."""

import functools

from hypothesis import given
from hypothesis import strategies as st
import ml_collections
import pytest

from metamix_jax import config as config_rules
from metamix_jax.config_file import load_config
from metamix_jax.errors import UserError
from tests.helpers.files import ROOT
from tests.helpers.properties import MANY

EDGES = [2**power + offset for power in (0, 7, 15, 31, 32, 63, 64) for offset in (-1, 0, 1)]
NUMBERS = st.one_of(
    st.integers(), st.sampled_from([*EDGES, 10**400]), st.sampled_from(EDGES).map(lambda n: -n), st.floats())
PLAIN = st.one_of(
    st.none(), st.booleans(), NUMBERS, st.text(max_size=6), st.binary(max_size=3), st.complex_numbers(),
    st.sampled_from(["None", "auto", "skip", "float32", "bfloat16", "shift", "student", "labels", "digits"]))
VALUES = st.one_of(
    PLAIN, st.lists(PLAIN, max_size=3), st.lists(PLAIN | NUMBERS, max_size=3).map(tuple),
    st.lists(NUMBERS, max_size=3).map(tuple),
    st.sets(NUMBERS, max_size=2), st.just(object()),
    st.dictionaries(st.text("ab_", min_size=1, max_size=3), PLAIN, max_size=2))


@functools.cache
def digits():
  return load_config(ROOT / "configs" / "digits.py")


def changed(name, value):
  """The digits config with another value, of any type, in one field."""
  config = ml_collections.ConfigDict(digits().to_dict())
  section, _, field = name.rpartition(".")
  with config.unlocked(), config.ignore_type():
    place = config[section] if section else config
    del place[field]
    place[field] = value
  return config


def check_field(name, value):
  try:
    config_rules.validate(changed(name, value))
    sentence = None
  except UserError as error:
    sentence = str(error)
  if isinstance(value, dict):  # It is a section with fields of its own.
    assert sentence is not None and name in sentence, sentence
  elif not config_rules.RULES[name].holds(value):
    assert sentence == f"config.{name} is {value!r}; it must be {config_rules.RULES[name].words}."
  else:  # A rule of several fields may refuse it.
    assert sentence is None or sentence.startswith("config."), sentence


@pytest.mark.parametrize("name", sorted(config_rules.RULES))
def test_every_field_refuses_what_is_of_no_type_of_its_own(name):
  for value in (b"x", 1j, object(), {1.0}, [1], [[]], (None,), (True,), ("",), ((1,),), (object(),), {}, {"a": 1}):
    check_field(name, value)


@given(st.sampled_from(sorted(config_rules.RULES)), VALUES)
def test_any_value_in_any_field(name, value):
  check_field(name, value)


@pytest.mark.slow
@MANY
@given(st.sampled_from(sorted(config_rules.RULES)), VALUES)
def test_any_value_in_any_field_at_length(name, value):
  check_field(name, value)


@given(st.dictionaries(st.sampled_from(["data", "arch", "network", "teacher", "stage_a", "network.options", "new"]),
                       VALUES, min_size=1, max_size=2))
def test_sections_that_are_something_else(sections):
  """A section that is a number, a text, or a section of other fields."""
  config = ml_collections.ConfigDict(digits().to_dict())
  with config.unlocked(), config.ignore_type():
    for name, value in sections.items():
      if name == "network.options":
        if isinstance(config.get("network"), ml_collections.ConfigDict) and "options" in config.network:
          del config.network["options"]
          config.network["options"] = value
        continue
      if name in config:
        del config[name]
      config[name] = value
  try:
    config_rules.validate(config)
  except UserError:
    return
  # The options are checked against the network, and an empty section has nothing to check.
  assert all(name == "network.options" or value == {} for name, value in sections.items())
