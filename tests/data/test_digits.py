"""The digits data set: exact images, labels and splits, and one sentence for every wrong name, split and size."""

import zlib

import numpy as np
import pytest
from sklearn import datasets

from metamix_jax import data
from metamix_jax.data import digits
from tests.digits_batches import as_bytes, data_dir, evaluate, handle, train  # pylint: disable=unused-import  Fixtures.

# Images of each digit in scikit-learn's set: 178 182 177 183 181 182 181 179 174 180, of which a quarter is for test.
TEST_COUNTS = [45, 46, 44, 46, 45, 46, 45, 45, 43, 45]
TRAIN_COUNTS = [133, 136, 133, 137, 136, 136, 136, 134, 131, 135]


def test_levels_stay_apart():
  levels = np.arange(17.0).reshape(1, 1, 17)
  pixels = digits.pixels_from_levels(levels)
  assert pixels.dtype == np.uint8 and pixels.shape == (1, 1, 17, 1)
  assert pixels.ravel().tolist() == [
      0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255]


def test_info(handle):
  info = data.dataset_info(handle, train_split="train", evaluation_split="test")
  assert info == data.DatasetInfo(num_classes=10, num_train=1347, num_evaluation=450, channels=1)


def test_parts_of_a_split_are_counted(handle):
  info = data.dataset_info(handle, train_split="train[:1000]", evaluation_split="train[1000:]")
  assert (info.num_train, info.num_evaluation) == (1000, 347)


@pytest.mark.parametrize("split, counts", [("train", TRAIN_COUNTS), ("test", TEST_COUNTS)])
def test_classes_are_balanced(handle, split, counts):
  (batch,) = evaluate(handle, split=split, batch_size=sum(counts))
  assert np.bincount(batch["label"]).tolist() == counts


def test_splits_together_are_sklearns_set(handle):
  """The ids partition 0 ... 1796, and each id has scikit-learn's image and label. The split never changes."""
  original = datasets.load_digits()
  ids = {}
  for split in ("train", "test"):
    ids[split] = set()
    for example in handle.as_dataset(split=split).as_numpy_iterator():
      index = int(example["id"])
      ids[split].add(index)
      np.testing.assert_array_equal(example["image"], digits.pixels_from_levels(original.images)[index])
      assert example["label"] == original.target[index]
  assert (len(ids["train"]), len(ids["test"])) == (1347, 450)
  assert ids["train"] | ids["test"] == set(range(1797))
  assert zlib.crc32(np.array(sorted(ids["test"]), np.int32).tobytes()) == 3075172026


def test_preparing_again_gives_the_same_bytes(handle, tmp_path):
  other = data.open_dataset("digits", str(tmp_path))
  assert other.data_dir != handle.data_dir
  assert as_bytes(evaluate(other)) == as_bytes(evaluate(handle))


# Errors.


def test_unknown_data_set():
  with pytest.raises(ValueError) as error:
    data.open_dataset("digts", None)
  assert str(error.value) == (
      "config.data.name is 'digts', which is not a data set: use 'digits', a name from the TFDS catalogue, such as"
      " 'imagenet2012', or 'folder' for images of your own.")


def test_data_set_that_is_not_prepared(tmp_path):
  with pytest.raises(ValueError) as error:
    data.open_dataset("mnist", str(tmp_path))
  assert str(error.value) == (
      f"config.data.name is 'mnist', which is not prepared: there is nothing in {tmp_path}/mnist/3.0.1 (set"
      f" config.data.data_dir if it is elsewhere); prepare it with `tfds build mnist --data_dir={tmp_path}`.")


def test_data_set_that_is_downloaded_by_hand(tmp_path):
  with pytest.raises(ValueError) as error:
    data.open_dataset("imagenet2012", str(tmp_path))
  assert f"`tfds build imagenet2012 --data_dir={tmp_path} --manual_dir=FOLDER`, FOLDER being" in str(error.value)


def test_unknown_split(handle):
  message = r"Data set 'digits' has no split 'validation': use one of \['test', 'train'\]"
  with pytest.raises(ValueError, match=message):
    data.dataset_info(handle, train_split="train", evaluation_split="validation")
  with pytest.raises(ValueError, match=message):
    evaluate(handle, split="validation")


def test_batch_larger_than_the_split(handle):
  assert len(train(handle, batch_size=1347)) == 1
  with pytest.raises(ValueError, match="A batch of 1348 images over all processes is more than the 1347 of"):
    train(handle, batch_size=674, process_count=2)


@pytest.mark.parametrize("max_shift", [-1, 8])
def test_shift_out_of_range(handle, max_shift):
  with pytest.raises(ValueError, match=f"max_shift is {max_shift}: use 0 to 7 pixels"):
    train(handle, max_shift=max_shift)


# Preparing must not reach for the network: TFDS asks Google Cloud Storage first unless it is told not to.


def test_preparing_opens_no_connection(tmp_path, monkeypatch):
  def refuse(*args, **kwargs):
    raise AssertionError("a connection was opened")

  monkeypatch.setattr("socket.getaddrinfo", refuse)
  monkeypatch.setattr("socket.socket.connect", refuse)
  handle = data.open_dataset("digits", str(tmp_path))
  assert handle.is_prepared()
