"""Small folders of images, one folder a class, and what the data wing says of them."""

import numpy as np
from PIL import Image
import pytest

from metamix_jax import data
from metamix_jax.errors import UserError

SPLITS = ("train", "test")


def draw(path, value=0):
  """Writes an image of 6 x 9 pixels of one value, and the folders above it."""
  path.parent.mkdir(parents=True, exist_ok=True)
  kind = "JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "PNG"
  Image.fromarray(np.full((6, 9, 3), value, np.uint8)).save(path, kind)


def open_folder(root, splits=SPLITS):
  return data.open_dataset("folder", str(root), splits)


def error_of(root, splits=SPLITS):
  with pytest.raises(UserError) as caught:
    builder = open_folder(root, splits)
    data.dataset_info(builder, train_split="train", evaluation_split="test")
  assert "\n" not in str(caught.value)
  return str(caught.value)


def values_of(builder, split, **options):
  batches = data.evaluation_batches(builder, split, data.ReadOptions(4, 6, **options), short_side=None)
  return sorted(
      (int(image[0, 0, 0]), int(label)) for batch in batches
      for image, label, real in zip(batch["image"], batch["label"], batch["mask"], strict=True) if real)
