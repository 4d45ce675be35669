#!/usr/bin/env python
"""Times the ImageNet input pipeline, its floor and, if torch is installed, PIL with a DataLoader.

  python scripts/make_standin_imagenet.py --data_dir=DIR --train=2000
  python scripts/benchmarks/bench_input.py --data_dir=DIR

It times four loops in turns, `rounds` times, in one process, each from its first batch on; the table has the medians:
  pipeline       training batches: read, shuffled, cropped, resized, mirrored, batched (metamix_jax.data.train_epoch)
  evaluation     evaluation batches: whole images decoded, resized with antialiasing, cropped
  decode only    the floor: the same records read and the same windows decoded, and nothing else
  PIL            torchvision's RandomResizedCrop on PIL images in a DataLoader, one worker a core, a file an image
All loops use the cores that the process may run on; `taskset -c 0,1 python scripts/benchmarks/bench_input.py ...`
limits them to two.
"""

import functools
import pathlib
import statistics
import tempfile
import time

from absl import app, flags
from absl import logging as absl_logging

from metamix_jax import data
from metamix_jax.command_line import exit_on_user_error
from metamix_jax.data import images as image_functions
from metamix_jax.data.cores import available_cores
from metamix_jax.data.datasets import records

# isort: split
# After metamix_jax.data, which sets the environment that TensorFlow reads when it is imported.
import tensorflow as tf
import tensorflow_datasets as tfds

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder that holds imagenet2012 or its stand-in.")
_BATCH = flags.DEFINE_integer("batch_size", 128, "Images in a batch.", lower_bound=1)
_SIZE = flags.DEFINE_integer("image_size", 224, "Pixels.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Times that each is measured.", lower_bound=1)
_IMAGES = flags.DEFINE_integer("images", 1024, "Images of the training split to use.", lower_bound=1)
CROP = data.RandomResizedCrop((0.08, 1.0), (3 / 4, 4 / 3), 0.5)
SHORT_SIDE_SHARE = 256 / 224  # Of the evaluation's short side to its crop.


@exit_on_user_error("bench_input")
def main(argv):
  """Measures the loops and prints a table; a UserError becomes one sentence and status 2."""
  del argv
  absl_logging.set_verbosity(absl_logging.WARNING)
  tf.get_logger().setLevel("ERROR")  # TFDS calls something that TensorFlow is going to remove.
  builder = data.open_dataset("imagenet2012", _DATA_DIR.value)
  split = f"train[:{min(_IMAGES.value, builder.info.splits['train'].num_examples)}]"
  runs = {
      "pipeline": functools.partial(run_pipeline, builder, split),
      "evaluation": functools.partial(run_evaluation, builder, split),
      "decode only": functools.partial(run_decode_only, builder, split),
  }
  pictures = tempfile.TemporaryDirectory()  # Removed with the process.
  try:
    runs["PIL"] = pil_run(builder, split, pictures.name)
  except ImportError as error:
    print(f"Without PIL: {error.name} is not installed.")
  rates = {name: [] for name in runs}
  for number in range(_ROUNDS.value + 1):
    for name, run in runs.items():
      counts = run(number)
      next(counts)  # Building the pipeline, a second, is nothing beside an epoch of ImageNet.
      start = time.perf_counter()
      rate = sum(counts) / (time.perf_counter() - start)
      if number:  # The first round fills caches.
        rates[name].append(rate)
  cores = available_cores()
  medians = {name: statistics.median(values) for name, values in rates.items()}
  print(f"{cores} cores, {_SIZE.value} x {_SIZE.value}, batch {_BATCH.value}, {split}, {_ROUNDS.value} rounds\n")
  print("| | images/s | images/s a core | pipeline / this | lowest to highest |")
  print("|---|---|---|---|---|")
  for name, rate in medians.items():
    ratios = [ours / other for ours, other in zip(rates["pipeline"], rates[name], strict=True)]
    print(f"| {name} | {rate:.0f} | {rate / cores:.0f} | {statistics.median(ratios):.2f} | "
          f"{min(rates[name]):.0f} to {max(rates[name]):.0f} |")


def run_pipeline(builder, split, epoch):
  """Returns an iterator over the sizes of an epoch's training batches."""
  batches = data.train_epoch(
      builder, split, data.ReadOptions(_BATCH.value, _SIZE.value), CROP, seed=0, epoch=epoch, shuffle_buffer=1000)
  return (len(batch["label"]) for batch in batches)


def run_evaluation(builder, split, epoch):
  """Returns an iterator over the sizes of the evaluation batches of the split."""
  del epoch
  batches = data.evaluation_batches(
      builder, split, data.ReadOptions(_BATCH.value, _SIZE.value), short_side=round(SHORT_SIDE_SHARE * _SIZE.value))
  return (int(batch["mask"].sum()) for batch in batches)


def run_decode_only(builder, split, epoch):
  """Reads the records and decodes a window of each; returns an iterator over the sizes of what would be batches."""
  def decode(number, record):
    draws = tf.random.stateless_uniform([2 * image_functions.CROP_ATTEMPTS + 2], tf.stack([epoch, number]))
    shape = tf.io.extract_jpeg_shape(record["image"])
    window = image_functions.crop_window(shape[0], shape[1], CROP.area, CROP.aspect, draws)
    return tf.shape(tf.image.decode_and_crop_jpeg(record["image"], window, channels=3, dct_method="INTEGER_ACCURATE"))

  dataset = records(builder, split).enumerate().map(decode, available_cores(), deterministic=True)
  return (len(shapes) for shapes in dataset.batch(_BATCH.value).prefetch(2))


def pil_run(builder, split, folder):
  """Returns such a function for PIL and a DataLoader; raises ImportError if they are not installed."""
  # Not dependencies of the package.
  from PIL import Image
  import torch
  # torchvision looks up these operators, which its own compiled part declares where that fits the installed torch.
  library = torch.library.Library("torchvision", "FRAGMENT")
  for schema in ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
                 "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"):
    try:
      library.define(schema)
    except RuntimeError:
      pass  # Declared already.
  from torchvision import transforms

  transform = transforms.Compose([
      transforms.RandomResizedCrop(_SIZE.value, scale=CROP.area, ratio=CROP.aspect),
      transforms.RandomHorizontalFlip(), transforms.PILToTensor()])
  files = []
  for record in builder.as_dataset(
      split=split, decoders={"image": tfds.decode.SkipDecoding()}).as_numpy_iterator():
    files.append(pathlib.Path(folder) / f"{len(files)}.jpg")
    files[-1].write_bytes(record["image"])

  class Pictures(torch.utils.data.Dataset):
    """Reads JPEG files as torchvision's ImageFolder does."""

    def __len__(self):
      return len(files)

    def __getitem__(self, index):
      return transform(Image.open(files[index]).convert("RGB"))

  loader = torch.utils.data.DataLoader(
      Pictures(), _BATCH.value, shuffle=True, num_workers=available_cores(), persistent_workers=True)
  return lambda epoch: (len(batch) for batch in loader)


if __name__ == "__main__":
  flags.mark_flag_as_required("data_dir")
  app.run(main)
