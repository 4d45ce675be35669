"""From encoded images to pixels: the stated crops, Pillow's results, and odd files."""

import io
import math

import numpy as np
from PIL import Image
import pytest
from scipy import stats
import tensorflow as tf
import tensorflow_datasets as tfds

from metamix_jax.data import images as image_functions
from tests.helpers.standin_batches import CROP

# Crops.


def reference_crops(height, width, count, rng):
  """Area and aspect of windows as torchvision's RandomResizedCrop documents them, in plain Python."""
  found = []
  while len(found) < count:
    for _ in range(10):
      area = height * width * rng.uniform(0.08, 1)
      aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
      w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
      if 0 < w <= width and 0 < h <= height:
        found.append((rng.integers(height - h + 1), rng.integers(width - w + 1), h, w))
        break
    else:
      raise AssertionError("never happens at this shape: ten attempts in a row fail once in 10^5")
  return np.array(found)


def test_ten_thousand_windows_follow_the_distribution():
  height, width, count = 375, 500, 10_000
  draws = np.random.default_rng(0).random((count, 2 * image_functions.CROP_ATTEMPTS + 2), np.float32)
  windows = tf.function(lambda rows: tf.map_fn(
      lambda row: image_functions.crop_window(height, width, CROP.area, CROP.aspect, row), rows,
      fn_output_signature=tf.int32))(tf.constant(draws)).numpy()
  top, left, h, w = windows.T
  assert (top >= 0).all() and (left >= 0).all() and (top + h <= height).all() and (left + w <= width).all()
  # Rounding to whole pixels moves the edges of the ranges a little.
  assert (h * w / (height * width)).min() > 0.079 and (w / h).min() > 0.74 and (w / h).max() < 1.35
  reference = reference_crops(height, width, count, np.random.default_rng(1))
  for ours, theirs in (
      (h * w, reference[:, 2] * reference[:, 3]), (w / h, reference[:, 3] / reference[:, 2]),
      (top / (height - h + 1), reference[:, 0] / (height - reference[:, 2] + 1)),
      (left / (width - w + 1), reference[:, 1] / (width - reference[:, 3] + 1))):
    assert stats.ks_2samp(ours, theirs).pvalue > 0.01


@pytest.mark.parametrize("shape, window", [
    ((10, 1000), [0, 493, 10, 13]),  # 4/3 of the height, in the middle.
    ((1000, 10), [493, 0, 13, 10]),
    ((1, 1), [0, 0, 1, 1]),
])
def test_where_no_window_fits_the_largest_in_the_middle(shape, window):
  draws = np.full(2 * image_functions.CROP_ATTEMPTS + 2, 0.99, np.float32)
  assert image_functions.crop_window(*shape, CROP.area, CROP.aspect, tf.constant(draws)).numpy().tolist() == window


def pixels_of(convert, encoded, seed=(0, 0)):
  return convert(tf.constant(encoded), tf.constant(seed, tf.int64)).numpy()


def some_jpegs(builder, count):
  return [record["image"].numpy() for record in builder.as_dataset(
      split="train", decoders={"image": tfds.decode.SkipDecoding()}).take(count)]


def test_a_crop_is_its_window_resized(imagenet_standin):
  encoded = some_jpegs(imagenet_standin, 1)[0]
  whole = np.asarray(Image.open(io.BytesIO(encoded)))
  convert = image_functions.random_resized_crop(64, 3, CROP.area, CROP.aspect, 0.0)
  for number in range(5):
    draws = tf.random.stateless_uniform([2 * image_functions.CROP_ATTEMPTS + 3], (7, number))
    top, left, h, w = image_functions.crop_window(*whole.shape[:2], CROP.area, CROP.aspect, draws[:-1]).numpy()
    expected = tf.image.resize(whole[top:top + h, left:left + w], (64, 64)).numpy()
    # Chroma at the window's edge is interpolated without what lies beyond it: a few pixels differ.
    assert np.abs(pixels_of(convert, encoded, (7, number)) - expected).mean() < 1


def test_mirrored_crops_are_mirror_images(imagenet_standin):
  encoded = some_jpegs(imagenet_standin, 1)[0]
  plain, mirrored, half = (
      image_functions.random_resized_crop(32, 3, CROP.area, CROP.aspect, p) for p in (0.0, 1.0, 0.5))
  flips = 0
  for number in range(100):
    left, right = pixels_of(plain, encoded, (0, number)), pixels_of(mirrored, encoded, (0, number))
    np.testing.assert_array_equal(left, right[:, ::-1])
    flips += (pixels_of(half, encoded, (0, number)) == right).all()
  assert 35 < flips < 65


def test_evaluation_crops_equal_pillows(imagenet_standin):
  convert = image_functions.center_crop(224, 3, 256)
  for encoded in some_jpegs(imagenet_standin, 12):
    picture = Image.open(io.BytesIO(encoded))
    width, height = picture.size
    short = min(width, height)
    size = (256 * width // short, 256 * height // short)
    left, top = (round((side - 224) / 2) for side in size)
    expected = picture.resize(size, Image.Resampling.BILINEAR).crop((left, top, left + 224, top + 224))
    error = np.abs(pixels_of(convert, encoded).astype(int) - np.asarray(expected))
    assert error.mean() <= 2
    assert np.quantile(error, 0.99) <= 8


# Odd files.


def encode(array, mode="RGB", **options):
  out = io.BytesIO()
  Image.fromarray(array, mode).save(out, "JPEG", **options)
  return out.getvalue()


def ramp(height, width, channels):
  values = np.linspace(0, 255, height)[:, None, None] * np.ones((1, width, channels))
  return np.round(values).astype(np.uint8)


def test_grey_cmyk_tiny_huge_and_png_become_colour():
  png = io.BytesIO()
  Image.fromarray(ramp(50, 60, 3)).save(png, "PNG")
  pictures = {
      "grey": encode(ramp(50, 60, 1)[..., 0], "L"), "cmyk": encode(ramp(50, 60, 4), "CMYK"),
      "tiny": encode(ramp(1, 1, 3)), "huge": encode(ramp(5000, 4000, 3)), "thin": encode(ramp(2, 3000, 3)),
      "png": png.getvalue()}
  for name, encoded in pictures.items():
    expected = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR))
    whole = pixels_of(image_functions.whole_image(32, 3), encoded)
    assert np.abs(whole.astype(int) - expected).mean() <= 2, name
    for convert in (
        image_functions.center_crop(32, 3, 36),
        image_functions.random_resized_crop(32, 3, CROP.area, CROP.aspect, 0.5)):
      assert pixels_of(convert, encoded).shape == (32, 32, 3), name
