#!/usr/bin/env python
"""Draws a contact sheet of the digit pairs: 40 test images, each under its label.

  python scripts/draw_digit_pairs.py docs/images/digit_pairs.png
"""

import pathlib

from absl import app
import numpy as np

from metamix_jax.command_line import exit_on_user_error, flags_parser
from metamix_jax.data import digit_pairs, digits
from metamix_jax.errors import UserError
from metamix_jax.records.files import check_writable, write_atomically
from metamix_jax.reporting import style

ROWS, COLUMNS = 4, 10
INCHES = 0.62  # Width of an image.


@exit_on_user_error("draw_digit_pairs")
def main(argv):
  """Writes the PNG."""
  if len(argv) != 2:
    raise UserError(f"{len(argv) - 1} paths are given; it takes one, of the PNG to write.")
  check_writable(argv[1])
  originals = digit_pairs.Originals.load(digits.split_indices()["test"])
  # The generator of the first 100 test images.
  images, labels, _ = digit_pairs.draw_one_of_each_class(originals, np.random.default_rng((digit_pairs.SEED, 1, 0)))
  figure = style.new_figure("", COLUMNS * INCHES, ROWS * 1.3 * INCHES)
  figure.suptitle(None)
  for axes, image, label in zip(figure.subplots(ROWS, COLUMNS).flat, images, labels, strict=False):
    axes.imshow(image[..., 0], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_title(f"{label:02}", pad=2)
    axes.set_axis_off()
  write_atomically(pathlib.Path(argv[1]), lambda partial: figure.savefig(partial, dpi=110, format="png"))


if __name__ == "__main__":
  app.run(main, flags_parser=flags_parser("draw_digit_pairs"))
