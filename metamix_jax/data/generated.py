"""Generates a small set of colour images, so that a config for ImageNet can be tried out without ImageNet.

Importing this module registers the name `generated` with TFDS. Each class is a colour gradient with one direction and
one hue under noise: enough for a network to learn, and not useful for anything else.
"""

import colorsys

import numpy as np
import tensorflow_datasets as tfds

NUM_CLASSES = 10
SPLITS = {"train": 64, "validation": 24}
# The images must be the same on every machine; any value would do.
SEED = 0
# Height and width are drawn from this range of pixels, so that cropping and resizing have something to do.
SMALLEST, LARGEST = 48, 96
NOISE_DEVIATION = 25.0  # On the scale 0..255: classes stay apart, no two images are equal.


class Generated(tfds.core.GeneratorBasedBuilder):
  """88 generated JPEG images of 48 to 96 pixels, ten classes; splits `train` (64) and `validation` (24).

  Features: `image` uint8 [H, W, 3]; `label` int64.
  """

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First release."}

  def _info(self) -> tfds.core.DatasetInfo:
    """Returns the features."""
    return tfds.core.DatasetInfo(
        builder=self,
        description="Generated images, for trying out configs.",
        features=tfds.features.FeaturesDict({
            "image": tfds.features.Image(shape=(None, None, 3), dtype=np.uint8, encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(num_classes=NUM_CLASSES),
        }),
        supervised_keys=("image", "label"),
    )

  def _split_generators(self, dl_manager):
    """Returns both splits; `dl_manager` is not used, since nothing is downloaded."""
    del dl_manager
    return {split: self._generate_examples(index, count) for index, (split, count) in enumerate(SPLITS.items())}

  def _generate_examples(self, stream, count):
    """Yields (key, features); `stream` keeps the splits apart."""
    for number in range(count):
      label = number % NUM_CLASSES
      yield number, {"image": draw(label, np.random.default_rng((SEED, stream, number))), "label": label}


def draw(label: int, rng: np.random.Generator) -> np.ndarray:
  """Draws one image of a class, uint8 [H, W, 3]: a gradient in the class's direction and hue, and noise."""
  height, width = rng.integers(SMALLEST, LARGEST + 1, 2)
  angle = 2 * np.pi * label / NUM_CLASSES
  rows, columns = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
  brightness = (rows * np.sin(angle) + columns * np.cos(angle) + 2) / 4
  colour = np.array(colorsys.hsv_to_rgb(label / NUM_CLASSES, 1, 255))
  image = brightness[..., None] * colour + rng.normal(0, NOISE_DEVIATION, (height, width, 3))
  return np.clip(np.round(image), 0, 255).astype(np.uint8)
