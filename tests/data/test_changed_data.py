"""Data that changed between two starts of a run."""

import json

import pytest

from metamix_jax import data
from metamix_jax.errors import UserError
from metamix_jax.records.workdir import check_data
from tests.helpers.class_folders import SPLITS, draw, open_folder


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


def test_what_is_recorded(workdir, digits_builder):
  recorded = json.loads((workdir / "data.json").read_text())
  digests = recorded.pop("digests")
  assert recorded == {
      "name": "folder", "version": "1.0.0", "classes": ["cat", "dog"], "images": {"train": 6, "test": 4}}
  assert set(digests) == {"train/cat", "train/dog", "test/cat", "test/dog"} and len(set(digests.values())) == 4
  assert data.describe(digits_builder, ("train[:100]", "test")) == {
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


def test_another_version(digits_builder, tmp_path):
  description = data.describe(digits_builder, SPLITS)
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
