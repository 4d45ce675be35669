"""Limits as a user writes them, what they allow, and what is said where nothing keeps them."""

import dataclasses
import math
import time

import numpy as np
import pytest

from metamix_jax.errors import UserError
from metamix_jax.method.bops import LayerCost, attainable_range
from metamix_jax.records.kept_limits import KeptLimit
from metamix_jax.records.limits import Limits, read_limits

LAYERS = (
    LayerCost("stem", 10**9, 80, (8,), 8, "conv", "signed"),  # 64 GBOPs, 80 bytes.
    LayerCost("a", 10**9, 16, (4, 8), 4, "conv", "unsigned"),  # 16 or 32 GBOPs, 8 or 16 bytes.
    LayerCost("b", 10**9, 32, (4, 8), 4, "conv", "unsigned"))  # 16 or 32 GBOPs, 16 or 32 bytes.
HIGH = {"a": np.array([0.0, 1.0]), "b": np.array([0.0, 2.0])}


def test_limits_are_read_and_kept():
  limits = read_limits(LAYERS, ["activation_bytes=115", "bops=120", "peak_activation_bytes=90"], "field")
  assert [limit.most for limit in limits.sums] == [115, 120] and limits.peak_bytes == 90
  assert limits.select(LAYERS, HIGH, 130, 0.0) == {"a": 8, "b": 4}  # 8 bits in b: 120 bytes.
  assert limits.kept_by(LAYERS, {"stem": 8, "a": 8, "b": 4}) == (
      KeptLimit("activation bytes", "bytes", 115, 112), KeptLimit("BOPs", "GBOPs", 120, 112),
      KeptLimit("peak activation bytes", "bytes", 90, 80))
  assert str(limits.kept_by(LAYERS, {"stem": 8, "a": 8, "b": 4})[0]) == "activation bytes 112 of 115 bytes"


def test_without_limits_the_target_alone_decides():
  assert not Limits() and Limits(peak_bytes=1.0) and read_limits(LAYERS, (), "field") == Limits(field="field")
  assert Limits().select(LAYERS, HIGH, 130, 0.0) == {"a": 8, "b": 8}
  Limits().check(LAYERS, 130)


def test_of_two_limits_on_the_peak_the_lower_one_counts():
  words = ["peak_activation_bytes=90", "peak_activation_bytes=85"]
  assert read_limits(LAYERS, words, "field").peak_bytes == read_limits(LAYERS, words[::-1], "field").peak_bytes == 85


@pytest.mark.parametrize("words", ["activation_bytes", "=3", "bops=0", "bops=-1", "bops=nan", "bops=inf", "bops=many"])
def test_a_wrong_limit_is_one_sentence(words):
  with pytest.raises(UserError, match="^field has '.*'; it must be COST=VALUE, with a finite number above 0.$"):
    read_limits(LAYERS, [words], "field")


def test_whether_anything_keeps_them_does_not_ask_to_spend_the_target():
  """The lowest bits keep the limits, and cost three quarters of the target."""
  limits = read_limits(LAYERS, ["activation_bytes=104"], "field")
  limits.check(LAYERS, 128)
  many = tuple(
      LayerCost(f"layer_{number}", 10**7 + 7919 * number**2, 100 + number, (3, 4, 8), 4, "conv", "unsigned")
      for number in range(40))
  begun = time.process_time()
  read_limits(many, ["activation_bytes=1e9"], "field").check(many, sum(attainable_range(many)) / 2)
  assert time.process_time() - begun < 5  # 0.02 s; to look for a cost of exactly the target would take hours.


def test_limits_beside_searched_weights_are_one_sentence():
  layers = (*LAYERS[:2], dataclasses.replace(LAYERS[2], candidate_weight_bits=(2, 4)))
  assert not read_limits(layers, (), "--at_most")
  with pytest.raises(UserError, match="^--at_most has 'bops=120', and config.quantization.candidate_weight"):
    read_limits(layers, ["bops=120"], "--at_most")


def test_limits_that_nothing_keeps_are_one_sentence_with_what_each_cost_can_be():
  limits = read_limits(LAYERS, ["activation_bytes=100", "peak_activation_bytes=70"], "--at_most")
  with pytest.raises(UserError) as error:
    limits.check(LAYERS, 130)
  assert str(error.value) == (
      "no assignment of bits keeps the target 130 and every limit of --at_most; the least that each cost can be alone "
      "is BOPs 96 of 130 GBOPs; activation bytes 104 of 100 bytes; peak activation bytes 80 of 70 bytes.")
  assert math.isinf(read_limits(LAYERS, ["bops=1"], "--at_most").peak_bytes)
