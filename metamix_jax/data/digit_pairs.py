"""Draws pairs of handwritten digits as a TFDS data set on which bit-widths matter, without a network.

Importing this module registers the name `digit_pairs` with TFDS. docs/evidence-data.md describes the data set.
"""

import dataclasses

import numpy as np
from scipy import ndimage
from sklearn import datasets
import tensorflow_datasets as tfds

from metamix_jax.data import digits

IMAGE_SIZE = 32  # Pixels: the size of CIFAR's images, at which published small networks are compared.
NUM_CLASSES = 100  # Ordered pairs of digits.
# Images of each class. With 5,000 test images the standard error of a top-1 near 80 % is 0.57 points.
TEST_IMAGES_PER_CLASS = 50
TRAIN_IMAGES_PER_CLASS = {"small": 64, "full": 256}
# The images must be the same on every machine; any value would do.
SEED = 0

# What follows makes the task hard enough that a network of MobileNetV2's shape, at full precision and trained on
# `small`, ends near 80 % top-1, so that there are points to lose at low bit-widths. Geometry is in pixels of the image.
DIGIT_SIZE = 15.0  # Side of a digit before it is transformed: two fill most of the width.
CENTRES = ((15.5, 8.5), (15.5, 22.5))  # Row and column of the left and the right digit before they are shifted.
MAX_SHIFT = 3.0  # Along both axes: neighbours may touch and overlap.
MAX_ROTATION = 25.0  # Degrees; well below 90, at which a 6 and a 9 would be alike in part.
SCALES = (0.75, 1.15)  # Of height and width, drawn apart.
MAX_SHEAR = 0.3  # Columns a row; beyond the slant of ordinary handwriting.
NUM_FRAGMENTS = 4  # Pieces of other digits: strokes that belong to neither digit.
FRAGMENT_SIDES = (5.0, 9.0)  # Of the square that is cut out of another digit: long enough for a stroke, not a digit.
FRAGMENT_STRENGTHS = (0.4, 0.9)  # Beside ink of 1: a threshold does not remove them.
INK = (0.55, 1.0)  # Level of the strokes, drawn for each digit, on the scale 0..1.
BACKGROUND = (0.0, 0.25)  # Level of the paper; with INK: the contrast differs from image to image.
NOISE = (0.04, 0.16)  # Standard deviation of the pixels' noise, drawn for each image.

# Spline interpolation of the 8 x 8 originals to this many pixels a side, from which strokes are drawn bilinearly.
_SOURCE_SIZE = 32


class DigitPairs(tfds.core.GeneratorBasedBuilder):
  """Two handwritten digits side by side on 32 x 32 grey pixels, 100 classes; splits `train` and `test`.

  Configurations: `small` has 6,400 training images, `full` 25,600, among them all of `small`; both have the same 5,000
  test images. Training and test images are made from different originals. All classes have the same number of images.

  Features: `image` uint8 [32, 32, 1]; `label` int64, 10 * left digit + right digit; `sources` int64
  [2 + NUM_FRAGMENTS], the places in scikit-learn's order of the originals: left, right, fragments.
  """

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First release."}
  BUILDER_CONFIGS = [
      tfds.core.BuilderConfig(name=name, description=f"{NUM_CLASSES * count:,} training images.")
      for name, count in TRAIN_IMAGES_PER_CLASS.items()]

  def _info(self) -> tfds.core.DatasetInfo:
    """Returns features, citation and home page."""
    return tfds.core.DatasetInfo(
        builder=self,
        description="Pairs of transformed handwritten digits among fragments of others, from scikit-learn's digits.",
        features=tfds.features.FeaturesDict({
            "image": tfds.features.Image(shape=(IMAGE_SIZE, IMAGE_SIZE, 1), dtype=np.uint8, encoding_format="png"),
            "label": tfds.features.ClassLabel(names=[f"{label:02}" for label in range(NUM_CLASSES)]),
            "sources": tfds.features.Tensor(shape=(2 + NUM_FRAGMENTS,), dtype=np.int64),
        }),
        supervised_keys=("image", "label"),
        homepage="https://scikit-learn.org/stable/datasets/toy_dataset.html#digits-dataset",
        citation=digits.CITATION,
    )

  def _split_generators(self, dl_manager):
    """Returns both splits; `dl_manager` is not used, since nothing is downloaded."""
    del dl_manager
    counts = {"train": TRAIN_IMAGES_PER_CLASS[self.builder_config.name], "test": TEST_IMAGES_PER_CLASS}
    return {
        split: self._generate_examples(stream, indices, counts[split])
        for stream, (split, indices) in enumerate(digits.split_indices().items())}

  def _generate_examples(self, stream, indices, images_per_class):
    """Yields (key, example); `stream` keeps the splits' random numbers apart."""
    originals = Originals.load(indices)
    for number in range(images_per_class):
      rng = np.random.default_rng((SEED, stream, number))
      for place, example in enumerate(zip(*draw_one_of_each_class(originals, rng), strict=True)):
        image, label, sources = example
        yield number * NUM_CLASSES + place, {"image": image, "label": int(label), "sources": sources}


@dataclasses.dataclass(frozen=True)
class Originals:
  """The digits from which images are made.

  Attributes:
    strokes: float64 [N, 32, 32], 0 (paper) to 1 (ink).
    indices: int64 [N], their places in scikit-learn's order.
    of_digit: for each digit, the places in `strokes` where it stands.
  """

  strokes: np.ndarray
  indices: np.ndarray
  of_digit: tuple[np.ndarray, ...]

  @classmethod
  def load(cls, indices: np.ndarray) -> "Originals":
    """Returns the originals at the places `indices` int64 [N] of scikit-learn's order."""
    bundled = datasets.load_digits()
    levels = bundled.images[indices] / (digits.NUM_LEVELS - 1)
    factor = _SOURCE_SIZE // levels.shape[-1]
    enlarged = ndimage.zoom(levels, (1, factor, factor), order=3, grid_mode=True, mode="grid-constant")
    strokes = np.clip(np.asarray(enlarged), 0, 1)
    labels = bundled.target[indices]
    return cls(strokes, indices, tuple(np.flatnonzero(labels == digit) for digit in range(10)))


def draw_one_of_each_class(
    originals: Originals, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Draws one image of each of the 100 classes, in random order.

  Args:
    originals: the digits that may be used.
    rng: the source of everything random.

  Returns:
    Images uint8 [100, 32, 32, 1], labels int64 [100], and sources int64 [100, 2 + NUM_FRAGMENTS].
  """
  labels = rng.permutation(NUM_CLASSES)
  pair = np.stack([
      [rng.choice(originals.of_digit[digit]) for digit in column] for column in (labels // 10, labels % 10)])
  canvas = np.zeros((NUM_CLASSES, IMAGE_SIZE, IMAGE_SIZE))
  for chosen, centre in zip(pair, CENTRES, strict=True):
    centres = np.array(centre) + rng.uniform(-MAX_SHIFT, MAX_SHIFT, (NUM_CLASSES, 2))
    ink = rng.uniform(*INK, (NUM_CLASSES, 1, 1))
    canvas = np.maximum(canvas, ink * _transformed(originals.strokes, chosen, centres, rng))
  sources = [*pair]
  for _ in range(NUM_FRAGMENTS):
    sources.append(rng.integers(len(originals.strokes), size=NUM_CLASSES))
    canvas = np.maximum(canvas, _fragments(originals.strokes, sources[-1], rng))
  background = rng.uniform(*BACKGROUND, (NUM_CLASSES, 1, 1))
  noise = rng.uniform(*NOISE, (NUM_CLASSES, 1, 1)) * rng.standard_normal(canvas.shape)
  images = np.clip(np.maximum(canvas, background) + noise, 0, 1)
  return np.rint(255 * images).astype(np.uint8)[..., None], labels, originals.indices[np.stack(sources, 1)]


def _transformed(strokes, chosen, centres, rng):
  """Draws digits, each under its own affine map, float64 [N, 32, 32].

  Args:
    strokes: float64 [M, 32, 32].
    chosen: int64 [N], which of them.
    centres: float64 [N, 2], row and column of the images where they stand.
    rng: of rotation, scale and shear.
  """
  angle = np.deg2rad(rng.uniform(-MAX_ROTATION, MAX_ROTATION, len(chosen)))
  scales = rng.uniform(*SCALES, (len(chosen), 2))
  shear = rng.uniform(-MAX_SHEAR, MAX_SHEAR, len(chosen))
  # Backwards, from each pixel of the image to the place of the original that it shows.
  grids = np.indices((IMAGE_SIZE, IMAGE_SIZE))
  rows, columns = (grid - centres[:, axis, None, None] for axis, grid in enumerate(grids))
  cosine, sine, shear = (value[:, None, None] for value in (np.cos(angle), np.sin(angle), shear))
  rows, columns = cosine * rows + sine * columns, cosine * columns - sine * rows
  columns = columns + shear * rows
  middle, size = (_SOURCE_SIZE - 1) / 2, _SOURCE_SIZE / DIGIT_SIZE
  rows = middle + size * rows / scales[:, 0, None, None]
  columns = middle + size * columns / scales[:, 1, None, None]
  which = np.broadcast_to(chosen[:, None, None], rows.shape)
  return ndimage.map_coordinates(strokes, [which, rows, columns], order=1, mode="constant", prefilter=False)


def _fragments(strokes, chosen, rng):
  """Draws a square piece of each chosen digit at a random place, float64 [N, 32, 32]; arguments as `_transformed`."""
  count = len(chosen)
  centres = rng.uniform(0, IMAGE_SIZE - 1, (count, 2))
  drawn = _transformed(strokes, chosen, centres, rng)
  # The square lies off the digit's middle, so that no whole small digit is left.
  corners = centres + rng.uniform(-DIGIT_SIZE / 2, DIGIT_SIZE / 2, (count, 2))
  half = rng.uniform(*FRAGMENT_SIDES, count)[:, None, None] / 2
  rows, columns = (abs(grid - corners[:, axis, None, None]) for axis, grid in enumerate(np.indices(drawn.shape[1:])))
  strength = rng.uniform(*FRAGMENT_STRENGTHS, (count, 1, 1))
  return drawn * ((rows <= half) & (columns <= half)) * strength
