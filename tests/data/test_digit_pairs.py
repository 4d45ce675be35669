"""The digit pairs: balanced, made from disjoint originals, the same images every time; both sizes."""

import itertools
import zlib

import numpy as np
import pytest
from sklearn import datasets

from metamix_jax import data
from metamix_jax.data import digit_pairs, digits


@pytest.fixture(scope="module")
def small(data_dir):
  return data.open_dataset("digit_pairs/small", str(data_dir))


@pytest.fixture(scope="module")
def examples(small):
  """Every image, label and sources of both splits of `small`, as arrays by split."""
  found = {}
  for split in ("train", "test"):
    count = small.info.splits[split].num_examples
    batch, = small.as_dataset(split=split).batch(count).as_numpy_iterator()
    found[split] = batch
  return found


def generated(config, split, count):
  """The first examples as they are drawn, without the files."""
  generator = digit_pairs.DigitPairs(config=config)._split_generators(None)[split]
  return [example for _, example in itertools.islice(generator, count)]


@pytest.mark.parametrize("config, num_train", [("small", 6400), ("full", 25600)])
def test_sizes_and_names(config, num_train):
  builder = digit_pairs.DigitPairs(config=config)
  assert digit_pairs.TRAIN_IMAGES_PER_CLASS[config] * digit_pairs.NUM_CLASSES == num_train
  label = builder.info.features["label"]
  assert (label.num_classes, label.int2str(7), label.int2str(38)) == (100, "07", "38")


def test_info(small):
  assert data.dataset_info(small, train_split="train", evaluation_split="test") == data.DatasetInfo(
      num_classes=100, num_train=6400, num_evaluation=5000, channels=1)
  assert data.describe_in_words(small, ("train", "test")).startswith("digit_pairs/small 1.0.0, 100 classes (00, 01, ")


def test_shapes_and_balance(examples):
  for split, count in (("train", 64), ("test", 50)):
    batch = examples[split]
    assert batch["image"].shape == (100 * count, 32, 32, 1) and batch["image"].dtype == np.uint8
    assert np.bincount(batch["label"]).tolist() == [count] * 100
    assert len({image.tobytes() for image in batch["image"]}) == 100 * count


def test_splits_share_no_original(examples):
  """Fragments included; and every original of a split is used."""
  used = {split: set(batch["sources"].ravel().tolist()) for split, batch in examples.items()}
  expected = {split: set(indices.tolist()) for split, indices in digits.split_indices().items()}
  assert used == expected
  assert not used["train"] & used["test"]


def test_labels_are_the_digits_of_the_sources(examples):
  target = datasets.load_digits().target
  for batch in examples.values():
    left, right = target[batch["sources"][:, 0]], target[batch["sources"][:, 1]]
    np.testing.assert_array_equal(batch["label"], 10 * left + right)


def test_every_pixel_is_the_published_one(examples):
  """Accuracies of different machines and versions compare only while the images are the same."""
  assert {split: zlib.crc32(batch["image"].tobytes()) for split, batch in examples.items()} == {
      "train": 2294751035, "test": 165851060}


def test_statistics(examples):
  """What a config gives as data.mean and data.std."""
  pixels = examples["train"]["image"] / 255
  assert abs(pixels.mean() - 0.216) < 5e-4 and abs(pixels.std() - 0.207) < 5e-4


def test_full_contains_small():
  small, full = (generated(config, "train", 250) for config in ("small", "full"))
  assert len(small) == len(full) == 250
  for one, other in zip(small, full, strict=True):
    np.testing.assert_array_equal(one["image"], other["image"])
    assert one["label"] == other["label"]
  for one, other in zip(*(generated(config, "test", 150) for config in ("small", "full")), strict=True):
    np.testing.assert_array_equal(one["image"], other["image"])


def centre_of_ink(images):
  """Row and column [N, 2] of the mean of images [N, H, W]."""
  weights = images / images.sum((1, 2), keepdims=True, dtype=float)
  return np.stack([(grid * weights).sum((1, 2)) for grid in np.indices(images.shape[1:])], 1)


def test_a_digit_without_transformation_is_the_original(monkeypatch):
  """Both digits stand where the constants say, upright: their centres of ink against the originals'."""
  for name in ("MAX_SHIFT", "MAX_ROTATION", "MAX_SHEAR", "NUM_FRAGMENTS"):
    monkeypatch.setattr(digit_pairs, name, 0)
  for name, value in (("SCALES", 1.0), ("INK", 1.0), ("BACKGROUND", 0.0), ("NOISE", 0.0)):
    monkeypatch.setattr(digit_pairs, name, (value, value))
  originals = digit_pairs.Originals.load(digits.split_indices()["test"])
  images, _, sources = digit_pairs.draw_one_of_each_class(originals, np.random.default_rng(0))
  levels = datasets.load_digits().images
  scale = digit_pairs.DIGIT_SIZE / 8
  for side, centre in enumerate(digit_pairs.CENTRES):
    found = centre_of_ink(images[:, :, 16 * side:16 * side + 16, 0]) + np.array([0, 16 * side])
    errors = found - (np.array(centre) + scale * (centre_of_ink(levels[sources[:, side]]) - 3.5))
    # Strokes that the spline takes above 1 are cut off, which moves single centres a little, in all directions.
    assert np.abs(errors.mean(0)).max() < 0.1 and np.abs(errors).max() < 0.6, errors


def test_preparing_opens_no_connection(tmp_path, monkeypatch):
  def refuse(*args, **kwargs):
    raise AssertionError("a connection was opened")

  monkeypatch.setattr(digit_pairs, "TRAIN_IMAGES_PER_CLASS", {"small": 1, "full": 1})
  monkeypatch.setattr(digit_pairs, "TEST_IMAGES_PER_CLASS", 1)
  monkeypatch.setattr("socket.getaddrinfo", refuse)
  monkeypatch.setattr("socket.socket.connect", refuse)
  assert data.open_dataset("digit_pairs/full", str(tmp_path)).is_prepared()


def test_the_first_configuration_is_the_small_one(tmp_path):
  with pytest.raises(ValueError, match=r"the configurations are \['small', 'full'\], as in 'digit_pairs/small'"):
    data.open_dataset("digit_pairs/smal", str(tmp_path))


@pytest.mark.slow
def test_full_is_prepared(tmp_path, examples):
  full = data.open_dataset("digit_pairs/full", str(tmp_path))
  assert data.dataset_info(full, train_split="train", evaluation_split="test").num_train == 25600
  batch, = full.as_dataset(split="train").batch(25600).as_numpy_iterator()
  assert np.bincount(batch["label"]).tolist() == [256] * 100
  images = {image.tobytes() for image in batch["image"]}
  assert len(images) == 25600
  assert {image.tobytes() for image in examples["train"]["image"]} < images
