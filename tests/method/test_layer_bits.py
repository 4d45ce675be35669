"""Which pattern decides over a layer."""

import pytest

from metamix_jax.errors import UserError
from metamix_jax.method.layer_bits import deciding_pattern, patterns_that_match_nothing


@pytest.mark.parametrize("patterns, name, expected", [
    ((), "stem", None), (("head",), "stem", None), (("stem",), "stem", "stem"), (("Stem",), "stem", None),
    (("*", "block_0*", "*/depthwise"), "block_00/depthwise", "*/depthwise"),
    (("*", "block_0*", "*/depthwise"), "block_00/project", "block_0*"),
    (("*", "block_0*", "*/depthwise"), "stem", "*"),
    (("*stem", "stem"), "stem", "stem"),  # As many characters, and no wildcard.
    (("block_0[12]/*", "block_0*"), "block_02/expand", "block_0[12]/*"),
    (("block_?1", "block_[0-9]?"), "block_01", "block_?1"), (("s",), "stem", None)])
def test_the_most_specific_pattern_decides_in_any_order(patterns, name, expected):
  for order in (patterns, patterns[::-1]):
    assert deciding_pattern(tuple((pattern, 8) for pattern in order), name) == expected


def test_two_equally_specific_patterns_are_one_sentence():
  patterns = (("stem*", 8), ("*stem", 4), ("head", 4))
  with pytest.raises(UserError, match=r"patterns '\*stem' and 'stem\*', which both match layer stem and are equally"):
    deciding_pattern(patterns, "stem")
  assert deciding_pattern(patterns, "stem_norm") == "stem*"


def test_patterns_without_a_layer():
  patterns = (("stem", 8), ("block*", None), ("*", 4))
  assert patterns_that_match_nothing(patterns, ["stem", "head"]) == ["block*"]
  assert patterns_that_match_nothing(patterns, []) == ["stem", "block*", "*"]


def test_of_three_patterns_the_two_most_specific_ones_are_compared():
  with pytest.raises(UserError, match=r"patterns '\*stem' and 'stem\*'"):
    deciding_pattern((("*", 8), ("stem*", 8), ("*stem", 4)), "stem")


def test_of_as_many_characters_the_fewest_wildcards_decide():
  patterns = (("stem*", 8), ("*stem*", 4), ("*ste?m*", 3))
  for order in (patterns, patterns[::-1]):
    assert deciding_pattern(order, "stem") == "stem*"
  assert deciding_pattern((("*stem*", 4), ("**stem*", 3)), "stem") == "*stem*"
