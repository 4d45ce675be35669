"""A small stand-in for ImageNet, JPEG records in TFDS's format, and its batches."""

import itertools

from metamix_jax import data
from tests.helpers.files import load_script

CROP = data.RandomResizedCrop((0.08, 1.0), (3 / 4, 4 / 3), 0.5)
NUM_TRAIN, NUM_VALIDATION, BATCH = 90, 21, 8


def open_standin(data_dir):
  """Writes the stand-in into a folder; returns its builder."""
  load_script("make_standin_imagenet").write(data_dir, {"train": NUM_TRAIN, "validation": NUM_VALIDATION}, 3, 25)
  return data.open_dataset("imagenet2012", str(data_dir))


def train(builder, *, epoch=0, seed=0, first_batch=0, image_size=32, batch_size=BATCH, augmentation=CROP, **kwargs):
  return data.train_epoch(
      builder, "train", data.ReadOptions(batch_size, image_size, **kwargs), augmentation, seed=seed, epoch=epoch,
      shuffle_buffer=40, first_batch=first_batch)


def evaluate(builder, *, split="validation", image_size=32, short_side=36, batch_size=BATCH, **kwargs):
  options = data.ReadOptions(batch_size, image_size, **kwargs)
  return data.evaluation_batches(builder, split, options, short_side=short_side)


def run_from(builder, epoch, first_batch, **kwargs):
  """Batches as a run sees them, epoch after epoch."""
  for number in itertools.count(epoch):
    yield from train(builder, epoch=number, first_batch=first_batch if number == epoch else 0, **kwargs)


def as_bytes(batches, count=None):
  return [
      {name: values.tobytes() for name, values in batch.items()} for batch in itertools.islice(batches, count)]
