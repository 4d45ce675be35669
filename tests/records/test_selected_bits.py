"""selected_bits.json: what is written is read again, and everything else is one sentence."""

import json

import pytest

from metamix_jax.errors import UserError
from metamix_jax.method.bops import LayerCost
from metamix_jax.records.selected_bits import read_selected_bits, write_selected_bits


def layer(name, candidate_bits):
  return LayerCost(
      name=name, macs=100, input_elements=10, candidate_bits=candidate_bits, weight_bits=4, kind="conv",
      input_range="unsigned")


LAYERS = (layer("stem", (8,)), layer("block/conv", (3, 4, 8)), layer("block/dense", (2, 8)))
BITS = {"block/conv": 4, "block/dense": 2}


def test_what_is_written_is_read(tmp_path):
  write_selected_bits(tmp_path / "bits.json", BITS)
  assert json.loads((tmp_path / "bits.json").read_text()) == {"selected": BITS}
  assert read_selected_bits(str(tmp_path / "bits.json"), LAYERS) == BITS


def test_bits_come_in_the_order_of_the_network(tmp_path):
  write_selected_bits(tmp_path / "bits.json", dict(reversed(BITS.items())))
  assert list(read_selected_bits(str(tmp_path / "bits.json"), LAYERS)) == ["block/conv", "block/dense"]


@pytest.mark.parametrize("content, sentence", [
    ("", "cannot be read (JSONDecodeError: "), ("[]", "cannot be read (TypeError: "),
    ("{}", "cannot be read (KeyError: "), ('{"selected": 3}', "cannot be read (TypeError: "),
    ("\udcff", "cannot be read (UnicodeDecodeError: "),
    ('{"selected": {"block/conv": 4}}', "does not fit this network: layer 'block/dense' is missing; "),
    ('{"selected": {"block/conv": 4, "block/dense": 2, "stem": 8}}', "does not fit this network: layer 'stem' is unkn"),
    ('{"selected": {"block/conv": 5, "block/dense": 2}}', "it gives layer 'block/conv' 5 bits; allowed are (3, 4, 8)"),
    ('{"selected": {"block/conv": 4.0, "block/dense": 2}}', "it gives layer 'block/conv' 4.0 bits; allowed are"),
    ('{"selected": {"block/conv": [4], "block/dense": 2}}', "it gives layer 'block/conv' [4] bits; allowed are"),
])
def test_other_files_are_one_sentence(content, sentence, tmp_path):
  path = tmp_path / "bits.json"
  path.write_bytes(content.encode("utf-8", "surrogateescape"))
  with pytest.raises(UserError) as caught:
    read_selected_bits(str(path), LAYERS)
  assert str(caught.value).startswith(f"config.bits_from={path} ") and sentence in str(caught.value)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["", "none.json", "/proc", "/dev/null/x", "a\0b"])
def test_a_path_that_cannot_be_read(path):
  with pytest.raises(UserError, match="cannot be read .*; it must be a selected_bits.json of an earlier run.$"):
    read_selected_bits(path, LAYERS)
