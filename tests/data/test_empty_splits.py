"""Splits that are empty, or of which nothing can be decoded, counted or written."""

import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds

from metamix_jax import data
from metamix_jax.errors import UserError
from tests.helpers.class_folders import open_folder, values_of


@pytest.mark.parametrize("split", ["test[:0]", "test[10:5]", "test[:0%]"])
def test_an_empty_part_of_a_split(digits_builder, split):
  for splits in (("train", split), (split, "test")):
    with pytest.raises(UserError, match="Data set 'digits' has no images in split 'test.*': use one that has"):
      data.dataset_info(digits_builder, train_split=splits[0], evaluation_split=splits[1])


def test_more_processes_than_images(digits_builder, monkeypatch):
  monkeypatch.setattr("metamix_jax.data.pipeline.IN_MEMORY_BYTES", 0)
  parts = [values_of(digits_builder, "test[:3]", process_index=index, process_count=4) for index in range(4)]
  assert list(map(len, parts)) == [1, 1, 1, 0]


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xe0 truncated", b"GIF89a"])
def test_a_split_of_which_nothing_can_be_decoded(root, content):
  for path in (root / "test").rglob("*.png"):
    path.write_bytes(content)
  builder = open_folder(root)
  data.check_records(builder, "train", data.ReadOptions(1, 6))
  with pytest.raises(UserError, match=r"none of the 4 records of split 'test' can be decoded; the first is .*/\d.png "):
    data.check_records(builder, "test", data.ReadOptions(1, 6, skipped=data.SkippedRecords()))
  with pytest.raises(UserError, match=r"record .*/\d.png cannot be decoded \(.*\); repair it, or set config.data"):
    data.check_records(builder, "test", data.ReadOptions(1, 6))


def test_one_good_record_is_enough_where_records_are_skipped(root):
  paths = sorted((root / "test").rglob("*.png"))
  for path in paths[1:]:
    path.write_bytes(b"")
  skipped = data.SkippedRecords()
  for process_index in range(4):  # Each looks at the whole split, so that all of them agree.
    data.check_records(open_folder(root), "test", data.ReadOptions(0, 6, process_index, 4, skipped=skipped))
  assert skipped.names == set()  # They are counted where they are read.


def test_a_record_that_vanished(root):
  builder = open_folder(root)
  for path in (root / "test").rglob("*.png"):
    path.unlink()
  with pytest.raises(UserError, match="the data set's files cannot be read: .*No such file"):
    data.check_records(builder, "test", data.ReadOptions(1, 6))


def test_a_split_without_labels(tmp_path):
  """TFDS gives the images of a test split that was published without labels the label -1."""
  builder = tfds.builder("cifar10", data_dir=tmp_path)
  pathlib.Path(builder.info.data_dir).mkdir(parents=True)
  writer = tfds.core.SequentialWriter(builder.info, 100)
  writer.initialize_splits(["train", "test"])
  for split, label in (("train", 3), ("test", -1)):
    writer.add_examples({split: [{"image": np.zeros((32, 32, 3), np.uint8), "label": label, "id": "0"}]})
  writer.close_all()
  builder = data.open_dataset("cifar10", str(tmp_path))
  data.check_records(builder, "train", data.ReadOptions(1, 32))
  with pytest.raises(UserError, match=r"split 'test' has label -1, which is not a class \(0 to 9\)"):
    data.check_records(builder, "test", data.ReadOptions(1, 32))


# Names.


def test_names_with_a_version(tmp_path):
  assert data.open_dataset("digits:1.0.0", str(tmp_path)).info.full_name == "digits/1.0.0"
  with pytest.raises(UserError) as caught:
    data.open_dataset("digits:9.9.9", str(tmp_path))
  assert str(caught.value) == (
      "config.data.name is 'digits:9.9.9', which TFDS cannot open: the newest version is 'digits:1.0.0'.")
  with pytest.raises(UserError, match=r"the configurations are \['8x8', '16x16', '32x32', '64x64'\], as in"):
    data.open_dataset("imagenet_resized/99x99", str(tmp_path))


def test_data_that_cannot_be_written(tmp_path):
  (tmp_path / "file").write_bytes(b"")
  with pytest.raises(UserError, match=r"'digits' cannot be written to .*file/digits/1.0.0 \(Not a directory\)"):
    data.open_dataset("digits", str(tmp_path / "file"))
