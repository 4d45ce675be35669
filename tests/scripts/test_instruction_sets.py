"""What differs between two instruction sets, on arrays by hand."""

import numpy as np
import pytest

from tests.helpers.files import load_script


@pytest.fixture(scope="module")
def script():
  return load_script("instruction_sets")


def arrays(bits, losses, correct):
  return {
      "bits": np.array(bits), "all at 3 bits": np.array(losses, np.float32), "correct/all at 3 bits": np.array(correct)}


def test_difference(script):
  first = arrays([3, 4, 8], [1.0, 2.0, 0.5, 0.5], [True, False, True, True])
  other = arrays([3, 8, 8], [1.5, 2.0, 0.0, 1.0], [False, True, True, True])
  result = script.difference(other, first)
  assert (result["equal_bits"], result["layers"]) == (2, 3)
  assert result["assignments"] == {"all at 3 bits": {
      "loss": 1.125, "top1": 75.0, "mean": 0.125, "spread": pytest.approx(np.std([0.5, 0, -0.5, 0.5])),
      "predictions": 50.0}}
  same = script.difference(first, first)["assignments"]["all at 3 bits"]
  assert (same["mean"], same["spread"], same["predictions"]) == (0, 0, 0)


def test_table(script):
  first = arrays([3, 4], [1.0, 2.0], [True, True])
  entries = []
  for change, bits in ((0.25, [3, 4]), (-0.5, [3, 3])):
    other = arrays(bits, [1.0 + change, 2.0 + change], [True, False])
    entries.append({"sets": {"NEW": script.difference(first, first), "OLD": script.difference(other, first)}})
  assert script.table(entries).splitlines()[2:] == [
      "| all at 3 bits | OLD | -0.1250, -0.5000 | 0.000 | -50.00 | 50.0 % |", "",
      "Searched bits equal to those under NEW, under OLD, by seed: 2 of 2, 1 of 2 layers."]
