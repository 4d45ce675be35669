"""Shifts and mirrors small images, in NumPy on whole batches."""

import numpy as np


def shift_images(images: np.ndarray, offsets: np.ndarray, max_shift: int) -> np.ndarray:
  """Pads with `max_shift` zeros on each side and cuts the original size out again.

  Args:
    images: uint8 [N, H, W, C].
    offsets: int [N, 2], row and column where each cut begins, 0 ... 2 * max_shift; max_shift leaves it in place.
    max_shift: pixels.

  Returns:
    uint8 [N, H, W, C].
  """
  _, height, width, _ = images.shape
  border = (max_shift, max_shift)
  padded = np.pad(images, ((0, 0), border, border, (0, 0)))
  cut = np.empty_like(images)
  for image, source, (row, column) in zip(cut, padded, offsets, strict=True):
    image[:] = source[row:row + height, column:column + width]
  return cut


def mirror_images(images: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
  """Mirrors the chosen images left and right; images uint8 [N, H, W, C], mirrored bool [N]."""
  return np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
