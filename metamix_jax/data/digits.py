"""Prepares scikit-learn's bundled handwritten digits as a TFDS data set, without a network.

Importing this module registers the name `digits` with TFDS.
"""

import numpy as np
from sklearn import datasets, model_selection
import tensorflow_datasets as tfds

NUM_IMAGES = 1797
NUM_TEST_IMAGES = 450  # 25 %, scikit-learn's default share, rounded up to a whole image.
# The split must be the same on every machine, whatever seed a run is given, or accuracies would not compare.
# Any value would do; it is not tuned.
SPLIT_SEED = 0
NUM_LEVELS = 17  # scikit-learn's pixels are counts from 0 to 16.

CITATION = """\
@misc{alpaydin1998optical,
  title = {Optical Recognition of Handwritten Digits},
  author = {Alpaydin, E. and Kaynak, C.},
  year = {1998},
  howpublished = {UCI Machine Learning Repository},
  doi = {10.24432/C50P49}
}
"""


class Digits(tfds.core.GeneratorBasedBuilder):
  """1,797 grey images of 8 x 8 pixels, ten classes; splits `train` (1,347) and `test` (450), both stratified.

  Features: `image` uint8 [8, 8, 1]; `label` int64, the digit; `id` int64, the image's place in scikit-learn's order.
  """

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First release."}

  def _info(self) -> tfds.core.DatasetInfo:
    """Returns features, citation and home page."""
    return tfds.core.DatasetInfo(
        builder=self,
        description="Handwritten digits of 8 x 8 pixels, the test part of the UCI set, as bundled with scikit-learn.",
        features=tfds.features.FeaturesDict({
            "image": tfds.features.Image(shape=(8, 8, 1), dtype=np.uint8, encoding_format="png"),
            "label": tfds.features.ClassLabel(num_classes=10),
            "id": tfds.features.Scalar(np.int64),
        }),
        supervised_keys=("image", "label"),
        homepage="https://scikit-learn.org/stable/datasets/toy_dataset.html#digits-dataset",
        citation=CITATION,
    )

  def _split_generators(self, dl_manager):
    """Splits by class in fixed proportion; `dl_manager` is not used, since nothing is downloaded."""
    del dl_manager
    digits = datasets.load_digits()
    images = pixels_from_levels(digits.images)
    return {
        split: self._generate_examples(images, digits.target, indices) for split, indices in split_indices().items()}

  def _generate_examples(self, images, labels, indices):
    """Yields (key, example) for the images at `indices` int64 [N] of images [1797, 8, 8, 1] and labels [1797]."""
    for index in map(int, indices):
      yield index, {"image": images[index], "label": int(labels[index]), "id": index}


def split_indices() -> dict[str, np.ndarray]:
  """Returns which images are for training and which for testing: int64, ascending places in scikit-learn's order."""
  train, test = model_selection.train_test_split(
      np.arange(NUM_IMAGES), test_size=NUM_TEST_IMAGES, stratify=datasets.load_digits().target, random_state=SPLIT_SEED)
  return {"train": np.sort(train), "test": np.sort(test)}


def pixels_from_levels(levels: np.ndarray) -> np.ndarray:
  """Spreads the levels 0, 1 ... 16 evenly over 0 ... 255, each level to a pixel value of its own.

  Args:
    levels: float [N, H, W], whole numbers from 0 to 16.

  Returns:
    uint8 [N, H, W, 1].
  """
  return np.rint(levels * (255 / (NUM_LEVELS - 1))).astype(np.uint8)[..., np.newaxis]
