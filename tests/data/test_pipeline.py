"""The input pipeline on digits: exact coverage, and the same bytes every time, held in memory or streamed."""

import itertools

import numpy as np
import pytest
from sklearn import datasets

from metamix_jax.data import digits, pipeline
from tests.helpers.digits_batches import as_bytes, evaluate, train


@pytest.fixture(params=["memory", "stream"])
def source(request, monkeypatch):
  """Runs a test with the split held in memory and with the same split streamed."""
  if request.param == "stream":
    monkeypatch.setattr(pipeline, "IN_MEMORY_BYTES", 0)
  return request.param


def images_of(batches):
  """Every image that is not padding, as bytes, in order."""
  return [image.tobytes()
          for batch in batches
          for image, real in zip(batch["image"], batch.get("mask", np.ones(len(batch["label"]))), strict=True)
          if real]


# One epoch of training.


def test_train_batches(digits_builder, source):
  batches = train(digits_builder, image_size=16)
  assert len(batches) == 21  # 1347 // 64
  for batch in batches:
    assert set(batch) == {"image", "label"}
    assert batch["image"].shape == (64, 16, 16, 1) and batch["image"].dtype == np.uint8
    assert batch["label"].shape == (64,) and batch["label"].dtype == np.int32


@pytest.mark.parametrize("augmentation", [{}, {"max_shift": 2, "flip_probability": 0.5}])
def test_an_epoch_can_be_repeated_exactly(digits_builder, source, augmentation):
  first, second = (as_bytes(train(digits_builder, seed=3, epoch=5, **augmentation)) for _ in range(2))
  assert first == second


def test_an_epoch_continues_anywhere(digits_builder, source):
  augmentation = {"max_shift": 1, "flip_probability": 0.5}
  whole = as_bytes(train(digits_builder, **augmentation))
  for first_batch in (1, 20, 21):
    assert as_bytes(train(digits_builder, first_batch=first_batch, **augmentation)) == whole[first_batch:]


def test_epochs_and_seeds_have_their_own_order(digits_builder, source):
  orders = [
      images_of(train(digits_builder, seed=seed, epoch=epoch)) for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))]
  for one, other in itertools.combinations(orders, 2):
    agreeing = sum(a == b for a, b in zip(one, other, strict=True))
    assert agreeing < 15  # Of 1344; random orders agree once on average.


def test_each_image_at_most_once_an_epoch(digits_builder, source):
  everything = images_of(evaluate(digits_builder, split="train"))
  assert len(set(everything)) == 1347  # All images differ, so bytes identify them.
  seen = images_of(train(digits_builder))
  assert len(seen) == len(set(seen)) == 1344
  assert set(seen) < set(everything)


def test_labels_stay_with_their_images(digits_builder, source):
  labels = {}
  for batch in evaluate(digits_builder, split="train"):
    labels.update(zip((image.tobytes() for image in batch["image"]), batch["label"], strict=True))
  for batch in train(digits_builder):
    assert [labels[image.tobytes()] for image in batch["image"]] == batch["label"].tolist()


def test_held_images_cannot_be_overwritten(digits_builder):
  before = as_bytes(train(digits_builder))
  for batch in train(digits_builder):
    batch["image"][:] = 0
  assert as_bytes(train(digits_builder)) == before


def test_processes_share_each_global_batch(digits_builder):
  """Two processes with half the batch see, side by side, what one process with the whole batch sees."""
  whole = train(digits_builder, batch_size=64, max_shift=1)
  parts = [
      train(digits_builder, batch_size=32, max_shift=0, process_index=index, process_count=2) for index in range(2)]
  unshifted = train(digits_builder, batch_size=64)
  assert [len(part) for part in parts] == [21, 21]
  for batch, left, right in zip(unshifted, *parts, strict=True):
    np.testing.assert_array_equal(batch["image"], np.concatenate([left["image"], right["image"]]))
    np.testing.assert_array_equal(batch["label"], np.concatenate([left["label"], right["label"]]))
  parts = [
      train(digits_builder, batch_size=32, max_shift=1, process_index=index, process_count=2) for index in range(2)]
  for batch, left, right in zip(whole, *parts, strict=True):
    np.testing.assert_array_equal(batch["image"], np.concatenate([left["image"], right["image"]]))


def test_processes_train_on_different_images(digits_builder, source):
  parts = [images_of(train(digits_builder, batch_size=32, process_index=index, process_count=3)) for index in range(3)]
  assert [len(part) for part in parts] == [448, 448, 448]  # 1347 // 3 // 32 = 14 batches.
  assert len(set().union(*parts)) == 3 * 448


def test_batch_larger_than_the_split(digits_builder):
  assert len(train(digits_builder, batch_size=1347)) == 1
  with pytest.raises(ValueError, match="A batch of 1348 images over all processes is more than the 1347 of"):
    train(digits_builder, batch_size=674, process_count=2)


# Evaluation.


@pytest.mark.parametrize("batch_size, num_batches", [(1, 450), (7, 65), (64, 8), (450, 1), (512, 1)])
def test_evaluation_covers_the_split_once(digits_builder, source, batch_size, num_batches):
  batches = evaluate(digits_builder, batch_size=batch_size)
  assert len(batches) == num_batches
  for batch in batches:
    assert batch["image"].shape == (batch_size, 8, 8, 1) and batch["image"].dtype == np.uint8
    assert batch["label"].shape == (batch_size,) and batch["label"].dtype == np.int32
    assert batch["mask"].shape == (batch_size,) and batch["mask"].dtype == np.float32
    padding = batch["mask"] == 0
    assert not batch["image"][padding].any() and not batch["label"][padding].any()
  assert sum(batch["mask"].sum() for batch in batches) == 450
  original = datasets.load_digits().images
  seen = images_of(batches)
  assert len(set(seen)) == 450
  assert set(seen) < {image.tobytes() for image in digits.pixels_from_levels(original)}


def test_evaluation_in_four_processes(digits_builder, source):
  """450 = 113 + 113 + 112 + 112: every process takes part in four batches of 32."""
  parts = [evaluate(digits_builder, batch_size=32, process_index=index, process_count=4) for index in range(4)]
  assert [len(part) for part in parts] == [4, 4, 4, 4]
  assert sorted(len(images_of(part)) for part in parts) == [112, 112, 113, 113]
  assert set().union(*map(images_of, parts)) == set(images_of(evaluate(digits_builder)))


def test_a_process_without_images_still_gets_a_batch(digits_builder, source):
  """Five images for four processes with batches of 1: two rounds, in the second of which three have padding."""
  parts = [
      evaluate(digits_builder, split="test[:5]", batch_size=1, process_index=index, process_count=4)
      for index in range(4)]
  assert [len(part) for part in parts] == [2, 2, 2, 2]
  assert sum(batch["mask"].sum() for part in parts for batch in part) == 5


def test_streaming_evaluates_the_same_bytes(digits_builder, monkeypatch):
  held = as_bytes(evaluate(digits_builder, image_size=12))
  monkeypatch.setattr(pipeline, "IN_MEMORY_BYTES", 0)
  assert as_bytes(evaluate(digits_builder, image_size=12)) == held


def test_doubling_interpolates_and_rounds(digits_builder):
  """Each new pixel is 3/4 of the nearest old one and 1/4 of the next, along both axes, rounded to a whole level."""
  (native,) = evaluate(digits_builder, batch_size=450)
  (double,) = evaluate(digits_builder, batch_size=450, image_size=16)
  expected = native["image"][..., 0].astype(float)
  for axis in (1, 2):
    rows = np.moveaxis(expected, axis, 0)
    before, after = rows[[0, *range(7)]], rows[[*range(1, 8), 7]]
    rows = np.stack([0.75 * rows + 0.25 * before, 0.75 * rows + 0.25 * after], 1).reshape(16, *rows.shape[1:])
    expected = np.moveaxis(rows, 0, axis)
  # Half a level, and what float32 loses.
  np.testing.assert_allclose(double["image"][..., 0], expected, rtol=0, atol=0.5 + 1e-4)


def test_halving_is_antialiased(digits_builder):
  """Without antialiasing, halving would average the middle 2 x 2 of each window alone."""
  (native,) = evaluate(digits_builder, batch_size=450)
  (half,) = evaluate(digits_builder, batch_size=450, image_size=4)
  assert half["image"].shape == (450, 4, 4, 1)
  middle = native["image"].astype(float).reshape(450, 4, 2, 4, 2).mean((2, 4))
  assert np.abs(half["image"][..., 0] - middle).mean() > 5
