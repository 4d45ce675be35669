"""Whole epochs of the digits as lists of batches, for the tests of the input pipeline."""

from metamix_jax import data


def train(builder, *, epoch=0, seed=0, max_shift=0, flip_probability=0, batch_size=64, image_size=8, first_batch=0,
          **kwargs):
  return list(data.train_epoch(
      builder, "train", data.ReadOptions(batch_size, image_size, **kwargs), data.Shift(max_shift, flip_probability),
      seed=seed, epoch=epoch, shuffle_buffer=2000, first_batch=first_batch))


def evaluate(builder, *, batch_size=64, image_size=8, split="test", short_side=None, **kwargs):
  options = data.ReadOptions(batch_size, image_size, **kwargs)
  return list(data.evaluation_batches(builder, split, options, short_side=short_side))


def as_bytes(batches):
  return [{name: (value.dtype, value.shape, value.tobytes()) for name, value in batch.items()} for batch in batches]
