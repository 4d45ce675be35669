"""Class folders that make a run meaningless, and what is left out of the others."""

import os

import pytest
import tensorflow_datasets as tfds

from metamix_jax import data
from tests.helpers.class_folders import SPLITS, draw, error_of, open_folder, values_of


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
