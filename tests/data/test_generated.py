"""The generated colour images: how many, how large, the same every time, and classes that differ."""

import numpy as np

from metamix_jax import data
from metamix_jax.data import generated


def test_splits_sizes_and_classes(data_dir):
  builder = data.open_dataset("generated", str(data_dir))
  info = data.dataset_info(builder, train_split="train", evaluation_split="validation")
  assert info == data.DatasetInfo(num_classes=10, num_train=64, num_evaluation=24, channels=3)
  examples = [
      example for split in ("train", "validation") for example in builder.as_dataset(split=split).as_numpy_iterator()]
  assert np.bincount([example["label"] for example in examples]).tolist() == 4 * [10] + 6 * [8]  # 7 + 3 and 6 + 2.
  sizes = [size for example in examples for size in example["image"].shape[:2]]
  assert 48 <= min(sizes) < 60 and 84 < max(sizes) <= 96


def test_pictures_repeat_and_classes_have_a_hue_each():
  first, again, other = (generated.draw(label, np.random.default_rng(7)) for label in (0, 0, 5))
  np.testing.assert_array_equal(first, again)
  assert first.dtype == np.uint8 and first.shape == other.shape
  # Class 0 is red, class 5, half a turn of hue away, cyan; a gradient averages half of full brightness.
  np.testing.assert_allclose(first.mean((0, 1)), [127.5, 10, 10], atol=6)
  np.testing.assert_allclose(other.mean((0, 1)), [10, 127.5, 127.5], atol=6)
