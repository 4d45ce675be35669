"""A small folder of images with two classes."""

import pytest

from tests.helpers.class_folders import draw


@pytest.fixture
def root(tmp_path):
  """Two classes, three training and two test images of each; the value of a pixel is 100 * label + number."""
  for split, count in (("train", 3), ("test", 2)):
    for label, name in enumerate(("cat", "dog")):
      for number in range(count):
        draw(tmp_path / split / name / f"{number}.png", 100 * label + number)
  return tmp_path
