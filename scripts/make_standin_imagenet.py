#!/usr/bin/env python
"""Writes a data set that TFDS reads as imagenet2012, to run and time the ImageNet configs without ImageNet.

  python scripts/make_standin_imagenet.py --data_dir=DIR --train=2000 --validation=500 --classes=10

It has the features and TFRecord shards of ImageNet. Its JPEGs have the sizes and the detail of photographs; texture and
colour depend on the class, so a network can learn them. Read it with --config.data.data_dir=DIR. The classes are the
first ones of ImageNet, so a network still has 1,000 outputs. The same arguments write the same images.
"""

import colorsys
import pathlib

from absl import app, flags
from absl import logging as absl_logging
import numpy as np

from metamix_jax import data
from metamix_jax.command_line import define_path, exit_on_user_error, flags_parser
from metamix_jax.errors import UserError
from metamix_jax.records.files import make_folder

# isort: split
# After metamix_jax.data, which sets the environment that TensorFlow reads when it is imported.
import tensorflow as tf
import tensorflow_datasets as tfds

_DATA_DIR = define_path("data_dir", None, "Folder of data sets; imagenet2012/VERSION is made in it.")
_TRAIN = flags.DEFINE_integer("train", 2000, "Training images.", lower_bound=1)
_VALIDATION = flags.DEFINE_integer("validation", 500, "Validation images.", lower_bound=1)
_CLASSES = flags.DEFINE_integer("classes", 10, "Classes, 1 to 1,000.", lower_bound=1, upper_bound=1000)
_PER_SHARD = flags.DEFINE_integer("images_per_shard", 250, "Images in a TFRecord file.", lower_bound=1)

# (height, width) and how often: the common sizes of ImageNet, and some odd ones.
SIZES = (((375, 500), 0.5), ((500, 375), 0.15), ((333, 500), 0.15), ((500, 500), 0.1), ((768, 1024), 0.05),
         ((200, 260), 0.05))
JPEG_QUALITY = 92  # With the noise below: about 0.6 bytes a pixel, as ImageNet has.
# Grains of noise in pixels and their strength on the scale 0..1: photographs have detail at every scale.
NOISE_GRAINS = ((1, 0.03), (2, 0.04), (8, 0.06), (64, 0.12))
GOLDEN_RATIO = 0.6180339887  # Multiples of it, modulo 1, keep neighbouring classes far apart.


def draw(label: int, rng: np.random.Generator) -> np.ndarray:
  """Draws one image of a class, uint8 [H, W, 3]: stripes of the class's colours, direction and width, under noise."""
  sizes, frequencies = zip(*SIZES, strict=True)
  height, width = sizes[rng.choice(len(sizes), p=frequencies)]
  angle, period = np.pi * (label * GOLDEN_RATIO % 1), 12 + 36 * (label * GOLDEN_RATIO**2 % 1)
  rows, columns = np.arange(height)[:, None], np.arange(width)[None]
  phase = 2 * np.pi * (rows * np.sin(angle) + columns * np.cos(angle)) / period + rng.uniform(0, 2 * np.pi)
  stripes = ((1 + np.sin(phase)) / 2).astype(np.float32)[..., None]
  first, second = (
      np.array(colorsys.hsv_to_rgb((label * GOLDEN_RATIO + turn) % 1, 0.6, 0.7), np.float32) for turn in (0, 0.35))
  image = stripes * first + (1 - stripes) * second
  for grain, strength in NOISE_GRAINS:
    noise = rng.normal(0, strength, (-(-height // grain) + 1, -(-width // grain) + 1, 3)).astype(np.float32)
    image += noise[:height, :width] if grain == 1 else tf.image.resize(noise, (height, width), "bilinear").numpy()
  return np.clip(np.round(255 * image), 0, 255).astype(np.uint8)


def write(data_dir: pathlib.Path, num_images: dict[str, int], num_classes: int, images_per_shard: int) -> pathlib.Path:
  """Writes the data set; returns its folder.

  Args:
    data_dir: as for tfds.builder.
    num_images: by split.
    num_classes: labels are 0 ... num_classes - 1, each as often as the others.
    images_per_shard: in each file.

  Raises:
    UserError: a data set is there already.
  """
  builder = tfds.builder("imagenet2012", data_dir=data_dir)
  folder = pathlib.Path(builder.info.data_dir)
  if folder.exists():
    raise UserError(f"{folder} exists already; choose another --data_dir.")
  make_folder(folder)
  writer = tfds.core.SequentialWriter(builder.info, images_per_shard)
  writer.initialize_splits(list(num_images))
  for stream, (split, count) in enumerate(num_images.items()):
    labels = np.random.default_rng((stream, count)).permutation(np.arange(count) % num_classes)
    for number, label in enumerate(labels.tolist()):
      jpeg = tf.io.encode_jpeg(draw(label, np.random.default_rng((stream, number, 1))), quality=JPEG_QUALITY)
      example = {"image": jpeg.numpy(), "label": label, "file_name": f"{split}_{number:08d}.JPEG"}
      writer.add_examples({split: [example]})
  writer.close_all()
  return folder


@exit_on_user_error("make_standin_imagenet")
def main(argv):
  """Writes what the flags ask for."""
  del argv
  absl_logging.set_verbosity(absl_logging.WARNING)
  if not _DATA_DIR.value:
    raise UserError("--data_dir is empty; it must be a folder.")
  folder = write(
      _DATA_DIR.value, {"train": _TRAIN.value, "validation": _VALIDATION.value}, _CLASSES.value,
      _PER_SHARD.value)
  size = sum(file.stat().st_size for file in folder.iterdir())
  info = data.dataset_info(
      data.open_dataset("imagenet2012", str(_DATA_DIR.value)), train_split="train", evaluation_split="validation")
  print(f"{folder}: {info.num_train} + {info.num_evaluation} images, {size / 1e6:.0f} MB.")


if __name__ == "__main__":
  flags.mark_flag_as_required("data_dir")
  app.run(main, flags_parser=flags_parser("make_standin_imagenet"))
