"""Shifts and mirror images of the digits."""

import numpy as np
import pytest

from tests.helpers.digits_batches import train


def test_half_of_the_images_are_mirrored(digits_builder):
  mirrored = 0
  for plain, flipped in zip(train(digits_builder), train(digits_builder, flip_probability=0.5), strict=True):
    changed = (plain["image"] != flipped["image"]).any((1, 2, 3))
    np.testing.assert_array_equal(flipped["image"][changed], plain["image"][changed][:, :, ::-1])
    mirrored += changed.sum()
  assert 580 < mirrored < 760  # 672 of 1344 on average, deviation 18; a few digits are symmetric.


def shifts(builder, epoch):
  """Row and column where each image of an epoch was cut out of its padded self, [1344, 2], found by search."""
  found = []
  for plain, moved in zip(train(builder, epoch=epoch), train(builder, epoch=epoch, max_shift=1), strict=True):
    np.testing.assert_array_equal(plain["label"], moved["label"])
    padded = np.pad(plain["image"], ((0, 0), (1, 1), (1, 1), (0, 0)))
    matches = np.array([
        [(padded[:, row:row + 8, column:column + 8] == moved["image"]).all((1, 2, 3)) for column in range(3)]
        for row in range(3)])
    assert (matches.sum((0, 1)) == 1).all()
    found.append(np.argwhere(np.moveaxis(matches, -1, 0))[:, 1:])
  return np.concatenate(found)


def test_shifts_reach_every_offset_and_only_those(digits_builder):
  offsets = shifts(digits_builder, 0)
  assert offsets.shape == (1344, 2)
  counts = np.bincount(offsets @ [3, 1], minlength=9)
  # 149 each on average, deviation 11.5.
  assert counts.sum() == 1344 and counts.min() > 100 and counts.max() < 200


def test_shifts_differ_between_epochs_and_batches(digits_builder):
  first, second = shifts(digits_builder, 0), shifts(digits_builder, 1)
  # Independent ones agree 149 times, deviation 11.5.
  assert 100 < (first == second).all(-1).sum() < 200
  assert 100 < (first[64:] == first[:-64]).all(-1).sum() < 200


@pytest.mark.parametrize("max_shift", [-1, 8])
def test_shift_out_of_range(digits_builder, max_shift):
  with pytest.raises(ValueError, match=f"max_shift is {max_shift}: use 0 to 7 pixels"):
    train(digits_builder, max_shift=max_shift)
