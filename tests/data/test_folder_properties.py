"""Any tree of class folders: it is read with the right numbers, or refused in one sentence before anything compiles."""

import os
import shutil

from hypothesis import given
from hypothesis import strategies as st
import pytest

from metamix_jax import data
from metamix_jax.errors import UserError
from tests.helpers.properties import FAST, MANY

SPLITS = ("train", "test")
CLASSES = st.sampled_from(["cat", "dog", "Cat", "owl", "cafe\u0301", "a b", ".ipynb_checkpoints", "__MACOSX", "1"])
FILES = st.sampled_from(["0.png", "1.PNG", "2.jpg", "3.JPEG", "4.webp", "._0.png", ".hidden", "notes", "Thumbs.db",
                         "deeper/5.png", "6.jpg.part", "7.png.jpg"])
TREES = st.fixed_dictionaries({split: st.dictionaries(CLASSES, st.sets(FILES, max_size=4), max_size=3)
                               for split in SPLITS})
# Trees that agree are rare among those: the same classes in each split, each with an image.
AGREEING = st.sets(CLASSES, min_size=2, max_size=3).flatmap(lambda names: st.fixed_dictionaries({
    split: st.fixed_dictionaries({name: st.sets(FILES, max_size=4).map(lambda files: files | {"0.png"})
                                  for name in names}) for split in SPLITS}))
IMAGES = {"0.png", "1.PNG", "2.jpg", "3.JPEG", "7.png.jpg"}
HIDDEN = {".ipynb_checkpoints", "__MACOSX"}


def check_tree(root, tree, loose):
  """Writes a tree, opens it as a run does, and compares with what the words of the README say."""
  shutil.rmtree(root, ignore_errors=True)
  for split, classes in tree.items():
    (root / split).mkdir(parents=True)
    for name in loose:
      (root / split / name).write_bytes(b"")
    for name, files in classes.items():
      (root / split / name).mkdir()
      for file in files:
        path = root / split / name / file
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"not an image")
  expected = {split: {name: len(files & IMAGES) for name, files in classes.items() if name not in HIDDEN}
              for split, classes in tree.items()}
  fits = (expected["train"].keys() == expected["test"].keys() and len(expected["train"]) >= 2
          and all(count for counts in expected.values() for count in counts.values()))
  try:
    builder = data.open_dataset("folder", str(root), SPLITS)
    info = data.dataset_info(builder, train_split="train", evaluation_split="test")
  except UserError as error:
    assert not fits and "\n" not in str(error), (str(error), tree)
    return False
  assert fits, tree
  assert builder.info.features["label"].names == sorted(expected["train"])
  assert (info.num_classes, info.num_train, info.num_evaluation) == (
      len(expected["train"]), sum(expected["train"].values()), sum(expected["test"].values()))
  unused = sum(len(files) for _, _, files in os.walk(root)) - info.num_train - info.num_evaluation
  assert sum(builder.left_out.values()) <= unused + 2 * len(HIDDEN)
  description = data.describe(builder, SPLITS)
  assert len(description["digests"]) == 2 * info.num_classes
  return True


LOOSE = st.sets(st.sampled_from(["README", "loose.png", ".DS_Store"]), max_size=2)


@given(TREES | AGREEING, LOOSE)
def test_any_tree(tmp_path, tree, loose):
  check_tree(tmp_path / "root", tree, loose)


@FAST
@given(AGREEING, LOOSE)
def test_trees_of_the_same_classes_are_read(tmp_path, tree, loose):
  assert check_tree(tmp_path / "root", tree, loose) == (len(set(tree["train"]) - HIDDEN) >= 2)


@pytest.mark.slow
@MANY
@given(TREES | AGREEING, LOOSE)
def test_any_tree_at_length(tmp_path, tree, loose):
  check_tree(tmp_path / "root", tree, loose)
