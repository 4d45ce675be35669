"""Exchanges of bits on unseen images: which images, which exchanges, when it stops, and the table."""

import itertools

import numpy as np
import pytest

from metamix_jax.data import digit_pairs
from metamix_jax.method.bops import LayerCost, complete_bits, gbops
from tests.helpers.claims import refinement

LAYERS = (
    LayerCost("stem", 10**6, 80, (8,), 8, "conv", "signed"),
    *(LayerCost(name, macs, 16, (3, 4, 8), 4, "conv", "unsigned") for name, macs in (("a", 10**8), ("b", 2 * 10**8))))


@pytest.fixture
def script():
  return refinement


def loss_of(bits):
  """Layer b needs its bits more than layer a, and costs twice as much."""
  return 1 / bits["a"] + 4 / bits["b"]


def test_exchanges_end_at_the_best_assignment_within_the_cost(script):
  def cost(bits):
    return gbops(LAYERS, complete_bits(LAYERS, bits))

  most = cost({"a": 8, "b": 4})
  assignments = [dict(zip("ab", bits, strict=True)) for bits in itertools.product((3, 4, 8), repeat=2)]
  best = min((bits for bits in assignments if cost(bits) <= most), key=loss_of)
  assert best == {"a": 8, "b": 4}
  judge = lambda bits: (np.full(10, loss_of(bits)) + np.arange(10) for _ in range(3))
  for start in ({"a": 3, "b": 3}, {"a": 4, "b": 3}):
    bits, counts = script.refine(LAYERS, start, most, judge, np.random.default_rng(1))
    assert bits == best and counts["accepted"] >= 2
  bits, counts = script.refine(LAYERS, best, most, judge, np.random.default_rng(1))
  # Worse ones by the same for each image: one batch of each is enough.
  number = len(list(script.neighbours(LAYERS, best, most)))
  assert bits == best and counts == {"accepted": 0, "judged": number, "images": 10 * number}


def test_a_difference_below_half_its_standard_error_is_not_accepted(script):
  """Four images with differences d - 1, d, d, d + 1: a standard error of 0.408."""
  def refined(difference):
    def losses_of(bits):
      worse = bits["a"] > 3
      yield np.array([-1.0, 0, 0, 1]) * (not worse) + (difference if not worse else 0)

    return script.refine(LAYERS[:2], {"a": 4}, 1e9, losses_of, np.random.default_rng(0))[0]

  assert refined(-0.21) == {"a": 3} and refined(-0.2) == {"a": 4}


def test_unseen_images_are_those_of_the_full_set_behind_the_small_one(script):
  first, second = script.unseen_batches(2)
  assert first["image"].shape == (500, 32, 32, 1) and np.bincount(first["label"]).tolist() == [5] * 100
  originals = digit_pairs.Originals.load(digit_pairs.digits.split_indices()["train"])
  images, labels, _ = digit_pairs.draw_one_of_each_class(originals, np.random.default_rng((digit_pairs.SEED, 0, 69)))
  np.testing.assert_array_equal(second["image"][:100], images)  # The 70th image of each class; small has 64.
  np.testing.assert_array_equal(second["label"][:100], labels)


def test_the_table(script):
  scores = {"gbops": 0.0688, "loss": 0.8, "top1": 78.0, "difference": 0.0, "interval": [0.0, 0.0]}
  refined = scores | {"loss": 0.79, "difference": -0.01, "interval": [-0.02, -0.001], "accepted": 1, "judged": 95,
                      "images": 1000, "seconds": 12.4}
  entry = {"seed": 10, "targets": [{"target": 0.07, "selected": scores, "from": {"selected": refined}}]}
  assert script.table([entry]).splitlines()[2:] == [
      "| 10 | 0.07 | selected | 0.800, 78.00 | 1 of 95 | 0.0688, 0.790, 78.00 | -0.010, better | 12 |"]
