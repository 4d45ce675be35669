"""Turns an encoded image into pixels of the size that a network wants, in TensorFlow, one image at a time."""

from collections.abc import Callable
import math

import tensorflow as tf

# Draws of a window before the largest one in the middle is taken: torchvision's number.
CROP_ATTEMPTS = 10


def random_resized_crop(
    size: int, channels: int, area: tuple[float, float], aspect: tuple[float, float], flip_probability: float
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
  """Makes training images: a random window resized to size x size, perhaps mirrored.

  Of a JPEG only the window is decoded. Bilinear without antialiasing, as in most TPU and JAX pipelines: antialiasing
  would halve the images per second.

  Args:
    size: pixels.
    channels: 1 or 3.
    area: of the window, a fraction of the image's, uniform between the two.
    aspect: width / height of the window, log-uniform between the two.
    flip_probability: of mirroring left and right.

  Returns:
    (encoded image, int64 [2] seed) -> uint8 [size, size, channels].
  """
  def convert(encoded, seed):
    draws = tf.random.stateless_uniform([CROP_ATTEMPTS * 2 + 3], seed)

    def window_in(shape):
      return crop_window(shape[0], shape[1], area, aspect, draws[:-1])

    def of_jpeg():  # Only a JPEG can be decoded in part.
      window = window_in(tf.io.extract_jpeg_shape(encoded))
      return tf.image.decode_and_crop_jpeg(encoded, window, channels=channels, dct_method="INTEGER_ACCURATE")

    def of_another():
      image = _decode(encoded, channels)
      window = window_in(tf.shape(image))
      return tf.slice(image, tf.concat([window[:2], [0]], 0), tf.concat([window[2:], [channels]], 0))

    image = tf.cond(tf.io.is_jpeg(encoded), of_jpeg, of_another)
    image = tf.image.resize(image, (size, size), method="bilinear")
    # Rounded, and only then mirrored: a quarter of the bytes to move.
    image = tf.cast(image + 0.5, tf.uint8)
    image = tf.cond(draws[-1] < flip_probability, lambda: tf.reverse(image, [1]), lambda: image)
    return tf.ensure_shape(image, (size, size, channels))

  return convert


def crop_window(
    height: tf.Tensor, width: tf.Tensor, area: tuple[float, float], aspect: tuple[float, float], draws: tf.Tensor
) -> tf.Tensor:
  """Draws the window of torchvision's RandomResizedCrop.

  Args:
    height: of the image, int32.
    width: of the image, int32.
    area: fraction of the image's, uniform between the two.
    aspect: width / height, log-uniform between the two.
    draws: uniform in [0, 1), [2 * CROP_ATTEMPTS + 2].

  Returns:
    int32 [4]: top, left, height, width. Where no attempt fits into the image, the largest centred window of an
    allowed aspect.
  """
  rows, columns = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
  pixels = (area[0] + (area[1] - area[0]) * draws[:CROP_ATTEMPTS]) * rows * columns
  low, high = math.log(aspect[0]), math.log(aspect[1])
  ratios = tf.exp(low + (high - low) * draws[CROP_ATTEMPTS:2 * CROP_ATTEMPTS])
  widths = tf.cast(tf.round(tf.sqrt(pixels * ratios)), tf.int32)
  heights = tf.cast(tf.round(tf.sqrt(pixels / ratios)), tf.int32)
  fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
  first = tf.argmax(tf.cast(fits, tf.int32))

  ratio = tf.clip_by_value(columns / rows, aspect[0], aspect[1])
  largest_width = tf.minimum(width, tf.cast(tf.round(rows * ratio), tf.int32))
  largest_height = tf.minimum(height, tf.cast(tf.round(columns / ratio), tf.int32))
  found = tf.reduce_any(fits)
  window_width = tf.where(found, widths[first], tf.maximum(largest_width, 1))
  window_height = tf.where(found, heights[first], tf.maximum(largest_height, 1))
  free = tf.cast(tf.stack([height - window_height, width - window_width]), tf.float32)
  corner = tf.where(found, tf.floor(draws[-2:] * (free + 1)), tf.floor(free / 2))
  return tf.concat([tf.cast(corner, tf.int32), [window_height, window_width]], 0)


def center_crop(size: int, channels: int, short_side: int) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
  """Makes evaluation images: resizes the short side to `short_side`, antialiased, and cuts out the middle size x size.

  Args:
    size: pixels, at most short_side.
    channels: 1 or 3.
    short_side: pixels.

  Returns:
    (encoded image, seed, not used) -> uint8 [size, size, channels].
  """
  def convert(encoded, seed):
    del seed
    image = _decode(encoded, channels)
    shape = tf.shape(image)[:2]
    # torchvision's sizes: the long side is rounded down, the corner to the nearest.
    resized = tf.cast(tf.floor(short_side * shape / tf.reduce_min(shape)), tf.int32)
    corner = tf.cast(tf.round(tf.cast(resized - size, tf.float64) / 2), tf.float32)
    # Only the pixels that are kept are computed; resizing first and cropping then gives the same ones.
    image = tf.raw_ops.ScaleAndTranslate(
        images=tf.cast(image, tf.float32)[None], size=[size, size], scale=tf.cast(resized / shape, tf.float32),
        translation=-corner, kernel_type="triangle", antialias=True)[0]
    return _to_uint8(image, size, channels)

  return convert


def whole_image(size: int, channels: int) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
  """Makes images from the whole image, resized to size x size, bilinear and antialiased.

  Args:
    size: pixels.
    channels: 1 or 3.

  Returns:
    (encoded image, seed, not used) -> uint8 [size, size, channels].
  """
  def convert(encoded, seed):
    del seed
    image = tf.image.resize(_decode(encoded, channels), (size, size), method="bilinear", antialias=True)
    return _to_uint8(image, size, channels)

  return convert


def _decode(encoded, channels):
  """Decodes a JPEG (grey and CMYK are converted), PNG, BMP or the first frame of a GIF: uint8 [H, W, channels]."""
  return tf.cond(
      tf.io.is_jpeg(encoded),
      lambda: tf.io.decode_jpeg(encoded, channels=channels, dct_method="INTEGER_ACCURATE"),
      lambda: tf.io.decode_image(encoded, channels=channels, expand_animations=False))


def _to_uint8(image, size, channels):
  """Rounds to uint8 and fixes the static shape [size, size, channels]."""
  image = tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
  return tf.ensure_shape(image, (size, size, channels))
