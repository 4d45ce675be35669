"""The style of all figures: colours that colour-blind readers can tell apart, markers, hatching, sizes, files."""

from collections.abc import Callable
import pathlib

import matplotlib
from matplotlib.figure import Figure

from metamix_jax.records.files import write_atomically

# Okabe and Ito's colours, without yellow, which is hard to see on white.
BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE, BLACK = COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
GREY = "#767676"
MARKERS = "os^Dv<>P"  # One more than the colours: pairs repeat only after 56.
LINE_STYLES = ("-", "--", "-.", ":")
# Bars of each kind of layer.
KIND_STYLES = {
    "conv": {"facecolor": BLUE, "hatch": ""},
    "depthwise": {"facecolor": ORANGE, "hatch": "////"},
    "dense": {"facecolor": GREEN, "hatch": "...."},
    "other": {"facecolor": PURPLE, "hatch": "xxxx"},
}
FIGURE_STYLE = {
    "font.size": 9, "axes.titlesize": 10, "figure.titlesize": 11, "axes.spines.top": False, "axes.spines.right": False,
    "axes.axisbelow": True, "grid.alpha": 0.3, "hatch.linewidth": 0.6, "legend.frameon": False}
_DOTS_PER_INCH = 110
_ROW_INCHES = 0.17  # A layer's line: just above the height of its name.


def new_figure(title: str, width: float, height: float) -> Figure:
  """Returns an empty figure of this size in inches; it needs no display."""
  figure = Figure(figsize=(width, height), layout="constrained")
  figure.suptitle(title)
  return figure


def figure_height(num_layers: int) -> float:
  """Returns the height in inches of a figure with one line for each layer, title and axis included."""
  return 1.6 + _ROW_INCHES * num_layers


def label_layers(axes, names) -> None:
  """Writes names from top to bottom as the ticks of the y axis, one line each."""
  axes.set_yticks(range(len(names)), names, fontsize=7)
  axes.set_ylim(len(names) - 0.4, -0.6)


def series_style(index: int) -> dict:
  """Returns the colour, line and marker of a series as keyword arguments of `plot`."""
  return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)],
          "linestyle": LINE_STYLES[index % len(LINE_STYLES)], "markersize": 4.5, "linewidth": 1.3}


def save(draw: Callable[[], Figure | None], path: pathlib.Path) -> bool:
  """Draws a figure in the shared style and writes it atomically as a PNG; returns False if `draw` returns None."""
  with matplotlib.rc_context(FIGURE_STYLE):
    figure = draw()
    if figure is None:
      path.unlink(missing_ok=True)  # Of an earlier state of the run.
      return False
    write_atomically(path, lambda partial: figure.savefig(partial, dpi=_DOTS_PER_INCH, format="png"))
  return True
