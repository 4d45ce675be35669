"""The digits data set: exact images, labels and splits."""

import zlib

import numpy as np
import pytest
from sklearn import datasets

from metamix_jax import data
from metamix_jax.data import digits
from tests.helpers.digits_batches import as_bytes, evaluate

# Images of each digit in scikit-learn's set: 178 182 177 183 181 182 181 179 174 180, of which a quarter is for test.
TEST_COUNTS = [45, 46, 44, 46, 45, 46, 45, 45, 43, 45]
TRAIN_COUNTS = [133, 136, 133, 137, 136, 136, 136, 134, 131, 135]


def test_levels_stay_apart():
  levels = np.arange(17.0).reshape(1, 1, 17)
  pixels = digits.pixels_from_levels(levels)
  assert pixels.dtype == np.uint8 and pixels.shape == (1, 1, 17, 1)
  assert pixels.ravel().tolist() == [
      0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255]


@pytest.mark.parametrize("split, counts", [("train", TRAIN_COUNTS), ("test", TEST_COUNTS)])
def test_classes_are_balanced(digits_builder, split, counts):
  (batch,) = evaluate(digits_builder, split=split, batch_size=sum(counts))
  assert np.bincount(batch["label"]).tolist() == counts


def test_splits_together_are_sklearns_set(digits_builder):
  """The ids partition 0 ... 1796, and each id has scikit-learn's image and label. The split never changes."""
  original = datasets.load_digits()
  ids = {}
  for split in ("train", "test"):
    ids[split] = set()
    for example in digits_builder.as_dataset(split=split).as_numpy_iterator():
      index = int(example["id"])
      ids[split].add(index)
      np.testing.assert_array_equal(example["image"], digits.pixels_from_levels(original.images)[index])
      assert example["label"] == original.target[index]
  assert (len(ids["train"]), len(ids["test"])) == (1347, 450)
  assert ids["train"] | ids["test"] == set(range(1797))
  assert zlib.crc32(np.array(sorted(ids["test"]), np.int32).tobytes()) == 3075172026


def test_preparing_again_gives_the_same_bytes(digits_builder, tmp_path):
  other = data.open_dataset("digits", str(tmp_path))
  assert other.data_dir != digits_builder.data_dir
  assert as_bytes(evaluate(other)) == as_bytes(evaluate(digits_builder))


# Preparing must not reach for the network: TFDS asks Google Cloud Storage first unless it is told not to.


def test_preparing_opens_no_connection(tmp_path, monkeypatch):
  def refuse(*args, **kwargs):
    raise AssertionError("a connection was opened")

  monkeypatch.setattr("socket.getaddrinfo", refuse)
  monkeypatch.setattr("socket.socket.connect", refuse)
  builder = data.open_dataset("digits", str(tmp_path))
  assert builder.is_prepared()
