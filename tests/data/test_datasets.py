"""Data sets by name and folders of images: what is in them, and one sentence for every wrong name and split."""

import pathlib
import shutil

import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from metamix_jax import data
from metamix_jax.errors import UserError
from tests.helpers import digits_batches
from tests.helpers.standin_batches import as_bytes, evaluate, train


def test_info(digits_builder):
  info = data.dataset_info(digits_builder, train_split="train", evaluation_split="test")
  assert info == data.DatasetInfo(num_classes=10, num_train=1347, num_evaluation=450, channels=1)


def test_parts_of_a_split_are_counted(digits_builder):
  info = data.dataset_info(digits_builder, train_split="train[:1000]", evaluation_split="train[1000:]")
  assert (info.num_train, info.num_evaluation) == (1000, 347)


def test_unknown_data_set():
  with pytest.raises(ValueError) as error:
    data.open_dataset("digts", None)
  assert str(error.value) == (
      "config.data.name is 'digts', which is not a data set: use 'digits', a name from the TFDS catalogue, such as"
      " 'imagenet2012', one that is prepared in config.data.data_dir, or 'folder' for images of your own.")


@pytest.fixture(scope="module")
def prepared(digits_builder, data_dir, tmp_path_factory):
  """A folder with the digits in two versions, and with the same data under a name that no code knows."""
  folder = tmp_path_factory.mktemp("prepared")
  for name, version in (("digits", "1.0.0"), ("digits", "0.9.0"), ("own_digits", "2.1.0")):
    copy = folder / name / version
    shutil.copytree(digits_builder.data_path, copy)
    for path in copy.glob("digits-*"):
      path.rename(path.with_name(path.name.replace("digits", name, 1)))
    info = copy / "dataset_info.json"
    info.write_text(info.read_text().replace('"1.0.0"', f'"{version}"').replace('"digits"', f'"{name}"'))
  return str(folder)


@pytest.mark.parametrize("name, full_name", [
    ("digits", "digits/1.0.0"), ("digits:1.0.0", "digits/1.0.0"), ("digits:0.9.0", "digits/0.9.0"),
    ("digits:1.*.*", "digits/1.0.0"), ("Digits", "digits/1.0.0"), ("Digits:0.9.0", "digits/0.9.0"),
    ("own_digits", "own_digits/2.1.0"), ("own_digits:2.1.0", "own_digits/2.1.0"), ("OwnDigits", "own_digits/2.1.0")])
def test_every_way_in_which_tfds_names_a_data_set(name, full_name, prepared):
  builder = data.open_dataset(name, prepared)
  assert builder.info.full_name == full_name
  batches = list(data.evaluation_batches(builder, "test", data.ReadOptions(450, 8), short_side=None))
  assert len(batches) == 1 and batches[0]["mask"].sum() == 450


@pytest.mark.parametrize("name, sentence", [
    ("digits:2.0.0", "which TFDS cannot open: the newest version is 'digits:1.0.0'."),
    ("digits:", "which TFDS cannot open: the newest version is 'digits:1.0.0'."),
    ("mnist/a=3", "which TFDS cannot open: the newest version is 'mnist:3.0.1'."),
    ("digit_pairs/tiny:1.0.0", "which TFDS cannot open: the configurations are ['small', 'full'], as in"),
    ("own_digits:1.0.0", "which is not a data set: use "), ("own digits", "which is not a data set: use "),
    ("../own_digits", "which is not a data set: use "), ("folder:1.0.0", "which is not a data set: use "),
])
def test_names_that_tfds_cannot_open(name, sentence, prepared):
  with pytest.raises(UserError) as error:
    data.open_dataset(name, prepared)
  assert str(error.value).startswith(f"config.data.name is {name!r}, {sentence}")


def test_data_set_that_is_not_prepared(tmp_path):
  with pytest.raises(ValueError) as error:
    data.open_dataset("mnist", str(tmp_path))
  assert str(error.value) == (
      f"config.data.name is 'mnist', which is not prepared: there is nothing in {tmp_path}/mnist/3.0.1 (set"
      f" config.data.data_dir if it is elsewhere); prepare it with `tfds build mnist --data_dir={tmp_path}`.")


def test_data_set_that_is_downloaded_by_hand(tmp_path):
  with pytest.raises(ValueError) as error:
    data.open_dataset("imagenet2012", str(tmp_path))
  assert f"`tfds build imagenet2012 --data_dir={tmp_path} --manual_dir=FOLDER`, FOLDER being" in str(error.value)


def test_unknown_split(digits_builder):
  message = r"Data set 'digits' has no split 'validation': use one of \['test', 'train'\]"
  with pytest.raises(ValueError, match=message):
    data.dataset_info(digits_builder, train_split="train", evaluation_split="validation")
  with pytest.raises(ValueError, match=message):
    digits_batches.evaluate(digits_builder, split="validation")


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
        picture = Image.fromarray(np.full((20, 30, 3), 100 * label + number, np.uint8))
        picture.save(root / split / name / f"{number}.png")
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
