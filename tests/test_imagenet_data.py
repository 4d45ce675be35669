"""The ImageNet path on JPEG records: same bytes every time, every image once; other data sets and folders."""

import pathlib

import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from metamix_jax import data
from tests.standin_batches import (  # pylint: disable=unused-import  Fixtures.
  NUM_TRAIN,
  NUM_VALIDATION,
  as_bytes,
  evaluate,
  handle,
  run_from,
  train,
)


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
      (None, "config.data.data_dir is None, which is not a folder: with config.data.name 'folder' it must hold SPLIT"),
      (str(tmp_path / "nowhere"), "which is not a folder"), (str(tmp_path), "where no image is found")):
    with pytest.raises(ValueError, match=sentence):
      data.open_dataset("folder", data_dir)
  with pytest.raises(ValueError, match=r"has no split 'test': use one of \['train', 'validation'\]\."):
    data.dataset_info(data.open_dataset("folder", str(folder)), train_split="train", evaluation_split="test")
