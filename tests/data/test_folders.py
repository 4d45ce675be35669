"""Data that are not what a run takes them for: class folders that do not fit, empty splits, data that changed."""

import json
import os
import pathlib

import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from metamix_jax import data
from metamix_jax.errors import UserError
from metamix_jax.records.workdir import check_data

SPLITS = ("train", "test")


def draw(path, value=0):
  path.parent.mkdir(parents=True, exist_ok=True)
  kind = "JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "PNG"
  Image.fromarray(np.full((6, 9, 3), value, np.uint8)).save(path, kind)


@pytest.fixture
def root(tmp_path):
  """Two classes, three training and two test images of each; the value of a pixel is 100 * label + number."""
  for split, count in (("train", 3), ("test", 2)):
    for label, name in enumerate(("cat", "dog")):
      for number in range(count):
        draw(tmp_path / split / name / f"{number}.png", 100 * label + number)
  return tmp_path


def open_folder(root, splits=SPLITS):
  return data.open_dataset("folder", str(root), splits)


def error_of(root, splits=SPLITS):
  with pytest.raises(UserError) as caught:
    builder = open_folder(root, splits)
    data.dataset_info(builder, train_split="train", evaluation_split="test")
  assert "\n" not in str(caught.value)
  return str(caught.value)


def values_of(builder, split, **options):
  batches = data.evaluation_batches(builder, split, data.ReadOptions(4, 6, **options), short_side=None)
  return sorted(
      (int(image[0, 0, 0]), int(label)) for batch in batches
      for image, label, real in zip(batch["image"], batch["label"], batch["mask"], strict=True) if real)


# Class folders that make a run meaningless.


def test_a_class_in_one_split_only(root):
  (root / "test" / "cat").rename(root / "test" / "Cat")
  (root / "test" / "dog").rename(root / "test" / "Dog")
  assert error_of(root) == (
      f"config.data.data_dir is '{root}': split 'test' has class 'Cat', 'Dog', split 'train' does not, but 'cat', which"
      " differs from 'Cat' in upper and lower case, spaces or Unicode form; the splits of a run must have the same"
      " classes.")


@pytest.mark.parametrize("split", SPLITS)
def test_a_class_that_another_split_lacks(root, split):
  draw(root / split / "owl" / "0.png")
  other, = set(SPLITS) - {split}
  assert f"split '{split}' has class 'owl', split '{other}' does not; the splits" in error_of(root)


def test_names_that_look_alike(root):
  (root / "train" / "cat").rename(root / "train" / "caf\u00e9")
  (root / "test" / "cat").rename(root / "test" / "cafe\u0301")
  assert r"but 'caf\xe9', which differs from 'cafe\u0301' in upper and lower case" in error_of(root)


def test_many_classes_are_counted_not_listed(root):
  for number in range(30):
    draw(root / "train" / f"owl{number:02}" / "0.png")
  assert "has class 'owl00', 'owl01', 'owl02', 'owl03', 'owl04' and 25 more, split 'test'" in error_of(root)


@pytest.mark.parametrize("content, remark", [
    ([], "; every"),
    (["deeper/0.png"], " (left out: 1 x nested folder); every"),
    (["0.webp", "1.WEBP", "notes"], " (left out: 2 x .webp, 1 x without a suffix); every"),
    ([".0.png.swp", "._0.png"], " (left out: 2 x hidden); every"),
])
def test_a_class_folder_without_images(root, content, remark):
  for split in SPLITS:
    (root / split / "owl").mkdir()
  draw(root / "train" / "owl" / "0.png")
  for name in content:
    path = root / "test" / "owl" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
  assert error_of(root) == (
      f"config.data.data_dir is '{root}': no image lies directly in class folder 'test/owl'{remark} class needs images,"
      " and they must be .jpg, .jpeg, .png.")


def test_splits_that_are_missing_or_hold_no_classes(root):
  assert f"config.data.data_dir is '{root}', which has no split 'validation'" in error_of(root, ("train", "validation"))
  assert error_of(root, ("train", "test[:50%]")).endswith("used whole; there are 'test', 'train'.")
  for path in (root / "test").rglob("*.png"):
    path.rename(root / "test" / f"{path.parent.name}{path.name}")
  for name in ("cat", "dog"):
    (root / "test" / name).rmdir()
  assert f"config.data.data_dir is '{root}', whose split 'test' has no class folder" in error_of(root)


def test_a_single_class(root):
  for split in SPLITS:
    for path in (root / split / "dog").iterdir():
      path.unlink()
    (root / split / "dog").rmdir()
  assert error_of(root) == "Data set 'folder' has a single class, ['cat']: use one with two or more."


@pytest.mark.parametrize("content", [{}, {"0.jpg": b""}, {"train/0.jpg": b""}, {"__MACOSX/train/cat/0.jpg": b""}])
def test_no_image_at_all(tmp_path, content):
  for name, written in content.items():
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(written)
  assert "no image is found" in error_of(tmp_path, None)


def test_a_data_dir_that_is_a_file(root):
  for path in (root / "train" / "cat" / "0.png", root / "nowhere"):
    assert f"config.data.data_dir is '{path}', which is not a folder" in error_of(path)


@pytest.mark.parametrize("unreadable", [".", "train", "test/dog"])
def test_a_folder_that_cannot_be_read(root, monkeypatch, unreadable):
  scandir = os.scandir

  def refuse(path):
    if os.path.abspath(path) == os.path.abspath(root / unreadable):
      raise PermissionError(13, "Permission denied")
    return scandir(path)

  monkeypatch.setattr("metamix_jax.data.folders.os.scandir", refuse)
  assert error_of(root).endswith("cannot be read (Permission denied).")


# What is ignored, and said.


def test_what_nobody_put_there_is_ignored(root):
  plain = values_of(open_folder(root), "train")
  for folder in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
    draw(root / folder / "cat" / "0.png")
    draw(root / "train" / folder / "0.png")
    draw(root / "train" / "cat" / folder / "0.png")
  (root / "train" / "cat" / "._0.png").write_bytes(b"finder")
  (root / "train" / ".DS_Store").write_bytes(b"")
  (root / "README.png").write_bytes(b"")
  for splits in (SPLITS, None):
    builder = open_folder(root, splits)
    assert builder.info.features["label"].names == ["cat", "dog"]
    assert set(builder.info.splits) == set(SPLITS)
    assert values_of(builder, "train") == plain == [(0, 0), (1, 0), (2, 0), (100, 1), (101, 1), (102, 1)]
    assert builder.left_out == {"hidden": 8}


def test_a_split_that_the_run_does_not_use_changes_nothing(root):
  draw(root / "raw" / "aardvark" / "0.png")
  info = data.dataset_info(open_folder(root), train_split="train", evaluation_split="test")
  assert info == data.DatasetInfo(num_classes=2, num_train=6, num_evaluation=4, channels=3)


def test_one_line_says_what_is_used_and_what_is_left_out(root):
  draw(root / "train" / "cat" / "UPPER.JPG", 77)
  draw(root / "train" / "dog" / "deeper" / "0.png")
  for name in ("3.webp", "4.webp", "5.gif", "LICENSE", ".6.png"):
    (root / "train" / "dog" / name).write_bytes(b"")
  (root / "test" / "labels.csv").write_bytes(b"")
  (root / "test" / "dog" / "gone.png").symlink_to(root / "nowhere.png")
  assert data.describe_in_words(open_folder(root), SPLITS) == (
      "folder 1.0.0, 2 classes (cat, dog), train 7 images, test 4 images; left out: 1 x .gif, 2 x .webp, 1 x broken"
      " link or special file, 1 x hidden, 1 x nested folder, 1 x outside a class folder, 1 x without a suffix")
  assert (77, 0) in values_of(open_folder(root), "train")


def test_links_and_odd_names_are_read(root, tmp_path_factory):
  elsewhere = tmp_path_factory.mktemp("elsewhere")
  draw(elsewhere / "owl" / "one.png", 200)
  for split in SPLITS:
    (root / split / "owl").symlink_to(elsewhere / "owl")
  draw(elsewhere / "linked.png", 201)
  (root / "train" / "cat" / "linked.png").symlink_to(elsewhere / "linked.png")
  draw(elsewhere / "plain.png", 202)
  os.rename(elsewhere / "plain.png", os.fsencode(root / "train" / "dog") + b"/no\xffutf-8.png")
  assert values_of(open_folder(root), "train") == [
      (0, 0), (1, 0), (2, 0), (100, 1), (101, 1), (102, 1), (200, 2), (201, 0), (202, 1)]


def test_processes_read_disjoint_parts(root):
  builder = open_folder(root)
  parts = [values_of(builder, "train", process_index=index, process_count=4) for index in range(4)]
  assert sorted(map(len, parts)) == [1, 1, 2, 2]
  assert sorted(sum(parts, [])) == values_of(builder, "train")


def test_class_folders_have_the_order_of_tfds(root):
  """Runs on class folders give the numbers that they give with TFDS's own ImageFolder."""
  for split in SPLITS:
    ours = [example["image/filename"] for example in open_folder(root).encoded(split, 0, 1).as_numpy_iterator()]
    tfds_own = tfds.ImageFolder(str(root)).as_dataset(split)
    assert ours == [example["image/filename"] for example in tfds_own.as_numpy_iterator()]


# Splits that are empty, or of which nothing can be decoded or counted.


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
  return data.open_dataset("digits", str(tmp_path_factory.mktemp("tfds")))


@pytest.mark.parametrize("split", ["test[:0]", "test[10:5]", "test[:0%]"])
def test_an_empty_part_of_a_split(digits, split):
  for splits in (("train", split), (split, "test")):
    with pytest.raises(UserError, match="Data set 'digits' has no images in split 'test.*': use one that has"):
      data.dataset_info(digits, train_split=splits[0], evaluation_split=splits[1])


def test_more_processes_than_images(digits, monkeypatch):
  monkeypatch.setattr("metamix_jax.data.pipeline.IN_MEMORY_BYTES", 0)
  parts = [values_of(digits, "test[:3]", process_index=index, process_count=4) for index in range(4)]
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


# Data that changed between two starts.


def change_of(root, workdir, splits=SPLITS):
  with pytest.raises(UserError) as caught:
    check_data(workdir, data.describe(open_folder(root, splits), splits))
  sentence = str(caught.value)
  assert sentence.startswith(f"workdir {workdir} holds a run on other data: ")
  assert sentence.endswith("; bring the earlier data back, or choose another workdir.")
  return sentence.partition(" other data: ")[2].partition("; bring")[0]


@pytest.fixture
def workdir(root, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("run")
  for _ in range(2):  # The second start changes nothing.
    check_data(workdir, data.describe(open_folder(root), SPLITS))
  return workdir


def test_what_is_recorded(workdir, digits):
  recorded = json.loads((workdir / "data.json").read_text())
  digests = recorded.pop("digests")
  assert recorded == {
      "name": "folder", "version": "1.0.0", "classes": ["cat", "dog"], "images": {"train": 6, "test": 4}}
  assert set(digests) == {"train/cat", "train/dog", "test/cat", "test/dog"} and len(set(digests.values())) == 4
  assert data.describe(digits, ("train[:100]", "test")) == {
      "name": "digits", "version": "1.0.0", "classes": [str(digit) for digit in range(10)],
      "images": {"train[:100]": 100, "test": 450}}


def test_a_class_was_added(root, workdir):
  for split in SPLITS:
    draw(root / split / "owl" / "0.png")
  assert change_of(root, workdir) == "class 'owl' is new"


def test_a_class_was_renamed(root, workdir):
  for split in SPLITS:
    (root / split / "cat").rename(root / split / "zebra")
  assert change_of(root, workdir) == "class 'cat' is gone and class 'zebra' is new"


def test_two_classes_changed_places(root, workdir):
  """Names and numbers are what they were."""
  for split in SPLITS:
    (root / split / "cat").rename(root / split / "owl")
    (root / split / "dog").rename(root / split / "cat")
    (root / split / "owl").rename(root / split / "dog")
  assert change_of(root, workdir).startswith("the images in test/cat have other names, or the first of them has other")


def test_an_image_was_added_or_renamed(root, workdir):
  (root / "train" / "cat" / "2.png").rename(root / "train" / "cat" / "5.png")
  assert change_of(root, workdir).startswith("the images in train/cat have other names")
  draw(root / "train" / "cat" / "2.png")
  assert change_of(root, workdir) == "split 'train' had 6 images and has 7"


def test_moved_data_are_the_same(root, workdir, tmp_path_factory):
  moved = tmp_path_factory.mktemp("disk") / "pictures"
  root.rename(moved)
  check_data(workdir, data.describe(open_folder(moved), SPLITS))


def test_another_version(digits, tmp_path):
  description = data.describe(digits, SPLITS)
  check_data(tmp_path, description)
  with pytest.raises(UserError, match="other data: its version was 1.0.0 and is 1.0.1; bring"):
    check_data(tmp_path, description | {"version": "1.0.1"})
  with pytest.raises(UserError, match="other data: its classes have another order"):
    check_data(tmp_path, description | {"classes": description["classes"][::-1]})


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"name": "folder"}', "null"])
def test_a_damaged_description(root, workdir, content):
  (workdir / "data.json").write_text(content)
  with pytest.raises(UserError, match="data.json cannot be read .* it is damaged. Delete it"):
    check_data(workdir, data.describe(open_folder(root), SPLITS))
