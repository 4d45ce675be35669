"""The ImageNet path on JPEG records: same bytes every time, the stated crops, and odd or damaged files."""

import importlib.util
import io
import itertools
import math
import pathlib

import numpy as np
from PIL import Image
import pytest
from scipy import stats
import tensorflow as tf
import tensorflow_datasets as tfds

from metamix_jax import data
from metamix_jax.data import images as image_functions
from metamix_jax.data import streaming

ROOT = pathlib.Path(__file__).parent.parent
CROP = data.RandomResizedCrop((0.08, 1.0), (3 / 4, 4 / 3), 0.5)
NUM_TRAIN, NUM_VALIDATION, BATCH = 90, 21, 8


def load_script(name):
  spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture(scope="module")
def handle(tmp_path_factory):
  data_dir = tmp_path_factory.mktemp("tfds")
  load_script("make_standin_imagenet").write(data_dir, {"train": NUM_TRAIN, "validation": NUM_VALIDATION}, 3, 25)
  return data.open_dataset("imagenet2012", str(data_dir))


def train(handle, *, epoch=0, seed=0, first_batch=0, image_size=32, batch_size=BATCH, augmentation=CROP, **kwargs):
  return data.train_epoch(
      handle, "train", data.Reading(batch_size, image_size, **kwargs), augmentation, seed=seed, epoch=epoch,
      shuffle_buffer=40, first_batch=first_batch)


def evaluate(handle, *, split="validation", image_size=32, short_side=36, batch_size=BATCH, **kwargs):
  return data.evaluation_batches(handle, split, data.Reading(batch_size, image_size, **kwargs), short_side=short_side)


def run_from(handle, epoch, first_batch, **kwargs):
  """Batches as a run sees them, epoch after epoch."""
  for number in itertools.count(epoch):
    yield from train(handle, epoch=number, first_batch=first_batch if number == epoch else 0, **kwargs)


def as_bytes(batches, count=None):
  return [
      {name: values.tobytes() for name, values in batch.items()} for batch in itertools.islice(batches, count)]


def test_standin_has_imagenets_features(handle):
  assert data.dataset_info(handle, train_split="train", evaluation_split="validation") == data.DatasetInfo(
      num_classes=1000, num_train=NUM_TRAIN, num_evaluation=NUM_VALIDATION, channels=3)
  assert set(handle.info.features) == {"image", "label", "file_name"}
  assert len(handle.info.splits["train"].shard_lengths) == 4  # 90 images, 25 to a file.
  labels = np.concatenate([batch["label"] for batch in evaluate(handle, batch_size=NUM_VALIDATION)])
  assert np.bincount(labels).tolist() == [7, 7, 7]


# Determinism.


def test_same_bytes_with_any_number_of_threads(handle):
  first = as_bytes(train(handle), 3)
  assert as_bytes(train(handle), 3) == first
  for num_threads in (1, 8):
    assert as_bytes(train(handle, num_threads=num_threads), 3) == first


@pytest.mark.parametrize("first_batch", [1, 4, 9, 10])  # An epoch has 11 batches.
def test_resumes_with_the_batches_it_would_have_had(handle, first_batch):
  whole = as_bytes(run_from(handle, 2, 0), 14)
  assert as_bytes(run_from(handle, 2, first_batch), 3) == whole[first_batch:first_batch + 3]
  assert whole[0] not in whole[11:]  # The next epoch has an order and crops of its own.


def test_crops_are_fresh_each_epoch_and_independent_of_the_seed_of_others(handle):
  def pictures(**kwargs):
    return {image.tobytes() for batch in train(handle, **kwargs) for image in batch["image"]}
  assert not pictures(epoch=0) & pictures(epoch=1)
  assert not pictures(seed=0) & pictures(seed=1)


@pytest.mark.parametrize("process_count", [1, 2, 3])
def test_an_epoch_has_every_image_once_with_any_number_of_processes(handle, process_count):
  """The whole image at 32 x 32 tells which record it is; 90 images are 15 global batches of 6."""
  plain = data.Shift(0, 0)
  everything = {image.tobytes() for batch in evaluate(handle, split="train", short_side=None, batch_size=90)
                for image in batch["image"]}
  seen = [
      image.tobytes() for index in range(process_count)
      for batch in train(handle, batch_size=6 // process_count, process_index=index, process_count=process_count,
                         augmentation=plain) for image in batch["image"]]
  assert len(seen) == len(set(seen)) == len(everything) == NUM_TRAIN
  assert set(seen) == everything


@pytest.mark.parametrize("process_count", [1, 2, 4])
def test_evaluation_has_every_image_once(handle, process_count):
  parts = [list(evaluate(handle, batch_size=4, process_index=index, process_count=process_count))
           for index in range(process_count)]
  assert len({len(part) for part in parts}) == 1
  seen = [image.tobytes() for part in parts for batch in part
          for image, real in zip(batch["image"], batch["mask"]) if real]
  assert len(seen) == len(set(seen)) == NUM_VALIDATION


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


def some_jpegs(handle, count):
  return [record["image"].numpy() for record in handle.as_dataset(
      split="train", decoders={"image": tfds.decode.SkipDecoding()}).take(count)]


def test_a_crop_is_its_window_resized(handle):
  encoded = some_jpegs(handle, 1)[0]
  whole = np.asarray(Image.open(io.BytesIO(encoded)))
  convert = image_functions.random_resized_crop(64, 3, CROP.area, CROP.aspect, 0.0)
  for number in range(5):
    draws = tf.random.stateless_uniform([2 * image_functions.CROP_ATTEMPTS + 3], (7, number))
    top, left, h, w = image_functions.crop_window(*whole.shape[:2], CROP.area, CROP.aspect, draws[:-1]).numpy()
    expected = tf.image.resize(whole[top:top + h, left:left + w], (64, 64)).numpy()
    # Chroma at the window's edge is interpolated without what lies beyond it: a few pixels differ.
    assert np.abs(pixels_of(convert, encoded, (7, number)) - expected).mean() < 1


def test_mirrored_crops_are_mirror_images(handle):
  encoded = some_jpegs(handle, 1)[0]
  plain, mirrored, half = (
      image_functions.random_resized_crop(32, 3, CROP.area, CROP.aspect, p) for p in (0.0, 1.0, 0.5))
  flips = 0
  for number in range(100):
    left, right = pixels_of(plain, encoded, (0, number)), pixels_of(mirrored, encoded, (0, number))
    np.testing.assert_array_equal(left, right[:, ::-1])
    flips += (pixels_of(half, encoded, (0, number)) == right).all()
  assert 35 < flips < 65


def test_evaluation_crops_equal_pillows(handle):
  convert = image_functions.center_crop(224, 3, 256)
  for encoded in some_jpegs(handle, 12):
    picture = Image.open(io.BytesIO(encoded))
    width, height = picture.size
    short = min(width, height)
    size = (256 * width // short, 256 * height // short)
    left, top = (round((side - 224) / 2) for side in size)
    expected = picture.resize(size, Image.Resampling.BILINEAR).crop((left, top, left + 224, top + 224))
    error = np.abs(pixels_of(convert, encoded).astype(int) - np.asarray(expected))
    assert error.mean() <= 2
    assert np.quantile(error, 0.99) <= 8


# Odd and damaged files.


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
        image_functions.center_crop(32, 3, 36), image_functions.random_resized_crop(32, 3, CROP.area, CROP.aspect, 0.5)):
      assert pixels_of(convert, encoded).shape == (32, 32, 3), name


@pytest.fixture(scope="module")
def damaged(handle, tmp_path_factory):
  """A copy of the stand-in with training record 3 truncated and validation record 5 no image at all."""
  builder = tfds.builder("imagenet2012", data_dir=tmp_path_factory.mktemp("damaged"))
  pathlib.Path(builder.info.data_dir).mkdir(parents=True)
  writer = tfds.core.SequentialWriter(builder.info, 25)
  writer.initialize_splits(["train", "validation"])
  for split, bad in (("train", 3), ("validation", 5)):
    records = handle.as_dataset(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    for number, record in enumerate(records.take(20).as_numpy_iterator()):
      if number == bad:
        record["image"] = record["image"][:2000] if split == "train" else b"no image"
      record["file_name"] = record["file_name"].decode()
      writer.add_examples({split: [record]})
  writer.close_all()
  return data.open_dataset("imagenet2012", builder._data_dir_root)  # pylint: disable=protected-access


def test_a_damaged_record_stops_the_run_and_is_named(damaged):
  for batches, name in (
      (train(damaged), "imagenet2012-train.tfrecord-00000__3"),
      (evaluate(damaged), "imagenet2012-validation.tfrecord-00000__5")):
    with pytest.raises(ValueError, match=f"record {name}") as caught:
      list(batches)
    assert "\n" not in str(caught.value) and "'skip'" in str(caught.value)


def test_damaged_records_can_be_skipped_and_are_counted(damaged, caplog):
  skipped = data.SkippedRecords()
  batches = [batch for epoch in range(2) for batch in train(damaged, epoch=epoch, skipped=skipped)]
  assert len(batches) == 4
  assert all(batch["image"].any((1, 2, 3)).all() for batch in batches)  # No zeros: a neighbour took its place.
  evaluated = list(evaluate(damaged, skipped=skipped))
  assert sum(batch["mask"].sum() for batch in evaluated) == 19
  # In the last batch of an epoch of 20 only 16 are used, so the damaged one may be among the others.
  assert skipped.names <= {
      "imagenet2012-train.tfrecord-00000__3", "imagenet2012-validation.tfrecord-00000__5"}
  assert len(skipped.names) == 2
  assert len([record for record in caplog.records if "cannot be decoded" in record.message]) == 2


def test_marking_changes_no_byte_of_good_records(handle):
  assert as_bytes(train(handle, skipped=data.SkippedRecords())) == as_bytes(train(handle))
  assert as_bytes(evaluate(handle, skipped=data.SkippedRecords())) == as_bytes(evaluate(handle))


def test_what_is_left_out_is_not_decoded(damaged):
  """A run that continues behind the damaged record never meets it."""
  skipped = data.SkippedRecords()
  bad_batch = next(
      number for number in range(2)
      if (list(itertools.islice(train(damaged, batch_size=10, first_batch=number, skipped=skipped), 1)), skipped.names)[1])
  if bad_batch == 0:
    assert len(list(train(damaged, batch_size=10, first_batch=1))) == 1
  with pytest.raises(ValueError, match="cannot be decoded"):
    list(train(damaged, batch_size=10, first_batch=bad_batch))


def test_gaps_are_filled_by_the_next_good_image():
  images, labels = np.arange(5, dtype=np.uint8)[:, None, None, None], np.arange(5, dtype=np.int32)
  filled, chosen = streaming.fill_gaps((images, labels, np.array([False, True, True, False, False])))
  assert chosen.tolist() == filled.ravel().tolist() == [1, 1, 2, 1, 1]
  with pytest.raises(ValueError, match="none of the 5 records"):
    streaming.fill_gaps((images, labels, np.zeros(5, bool)))


def test_a_damaged_file_is_one_sentence(handle, tmp_path):
  folder = tmp_path / "imagenet2012" / "5.1.0"
  folder.mkdir(parents=True)
  for file in pathlib.Path(handle.data_dir).iterdir():
    (folder / file.name).write_bytes(file.read_bytes())
  shard = folder / "imagenet2012-validation.tfrecord-00000"
  shard.write_bytes(shard.read_bytes()[:50_000])
  with pytest.raises(ValueError, match="the data set's files cannot be read: .*") as caught:
    list(evaluate(data.open_dataset("imagenet2012", str(tmp_path))))
  assert "\n" not in str(caught.value)


# Other data sets.


def test_any_classification_set_by_name(tmp_path):
  builder = tfds.builder("cifar10", data_dir=tmp_path)
  pathlib.Path(builder.info.data_dir).mkdir(parents=True)
  writer = tfds.core.SequentialWriter(builder.info, 100)
  writer.initialize_splits(["train", "test"])
  pictures = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)
  for split in ("train", "test"):
    writer.add_examples({split: [
        {"image": picture, "label": number % 10, "id": str(number)} for number, picture in enumerate(pictures)]})
  writer.close_all()
  cifar = data.open_dataset("cifar10", str(tmp_path))
  batch, = evaluate(cifar, split="test", short_side=None, batch_size=12)
  np.testing.assert_array_equal(batch["image"], pictures)
  assert batch["label"].tolist() == [*range(10), 0, 1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  root = tmp_path_factory.mktemp("pictures")
  for split, count in (("train", 10), ("validation", 3)):
    for label, name in enumerate(("cat", "dog")):
      (root / split / name).mkdir(parents=True)
      for number in range(count):
        Image.fromarray(np.full((20, 30, 3), 100 * label + number, np.uint8)).save(root / split / name / f"{number}.png")
  return root


def test_a_users_own_folder(folder):
  own = data.open_dataset("folder", str(folder))
  assert data.dataset_info(own, train_split="train", evaluation_split="validation") == data.DatasetInfo(2, 20, 6, 3)
  orders = []
  for epoch in range(2):
    batches = list(train(own, epoch=epoch, batch_size=5))
    values = np.concatenate([batch["image"][:, 0, 0, 0] for batch in batches])
    np.testing.assert_array_equal(np.concatenate([batch["label"] for batch in batches]), values // 100)
    assert sorted(values) == [*range(10), *range(100, 110)]
    orders.append(values.tolist())
  assert orders[0] != orders[1]
  assert as_bytes(train(own, first_batch=1)) == as_bytes(train(own))[1:]
  parts = [list(evaluate(own, batch_size=2, process_index=index, process_count=2)) for index in range(2)]
  assert sum(batch["mask"].sum() for part in parts for batch in part) == 6


def test_a_damaged_picture_of_a_folder_is_named(folder, tmp_path):
  for file in folder.rglob("*.png"):
    copy = tmp_path / file.relative_to(folder)
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_bytes(file.read_bytes())
  (tmp_path / "train" / "dog" / "3.png").write_bytes(b"no image")
  with pytest.raises(ValueError, match=f"record {tmp_path}/train/dog/3.png cannot be decoded"):
    list(train(data.open_dataset("folder", str(tmp_path)), batch_size=20))


def test_folders_that_hold_nothing(folder, tmp_path):
  for data_dir, sentence in (
      (None, "config.data.data_dir is None, which is no folder: with config.data.name 'folder' it must hold SPLIT"),
      (str(tmp_path / "nowhere"), "which is no folder"), (str(tmp_path), "where no image is found")):
    with pytest.raises(ValueError, match=sentence):
      data.open_dataset("folder", data_dir)
  with pytest.raises(ValueError, match=r"has no split 'test': use one of \['train', 'validation'\]\."):
    data.dataset_info(data.open_dataset("folder", str(folder)), train_split="train", evaluation_split="test")
