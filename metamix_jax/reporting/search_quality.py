"""The quality of a search as a figure, and as a part of the page where every dot tells its bits, cost and accuracy."""

import io
from typing import Any, TypeAlias
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
import numpy as np

from metamix_jax.method.bops import candidate_widths
from metamix_jax.records.names import format_target
from metamix_jax.records.search_quality import AssignmentScore, TargetQuality
from metamix_jax.reporting.saved_run import SavedRun
from metamix_jax.reporting.style import BLACK, BLUE, FIGURE_STYLE, GREEN, GREY, VERMILION, new_figure

CAPTION = (
    "Quality of the search: each grey dot is a random assignment of the same cost, judged like the selection: straight "
    "from the meta-state, on the same evaluation images. Further left is better; the height of a dot means nothing.")
_Style: TypeAlias = dict[str, Any]  # Keyword arguments of `plot`.
_SELECTED: _Style = {"color": BLUE, "marker": "*", "markersize": 15}
_STYLES: dict[str, _Style] = {
    "sensitivity": {"color": VERMILION, "marker": "^", "markersize": 8},
    "local search": {"color": GREEN, "marker": "s", "markersize": 7},
}
_FURTHER: _Style = {"color": BLACK, "marker": "D", "markersize": 6}  # A baseline that a fork adds.
_RANDOM: _Style = {"color": GREY, "marker": "o", "markersize": 4, "alpha": 0.6, "markeredgewidth": 0}


def search_quality(run: SavedRun) -> Figure | None:
  """Draws the loss of the selection among random and other assignments, one row for each target."""
  figure, _ = _draw(run)
  return figure


def interactive_figure(run: SavedRun) -> str:
  """Returns the figure as SVG for an HTML page: pointing at a dot shows its bits, cost and accuracy.

  The tips are the <title> elements of SVG, so the page needs no script.

  Raises:
    ValueError: the search quality of the run was not measured.
  """
  with matplotlib.rc_context(FIGURE_STYLE | {"svg.fonttype": "none", "svg.hashsalt": "search_quality"}):
    figure, tips = _draw(run)
    if figure is None:
      raise ValueError(f"the search quality of {run.folder} was not measured.")
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
  root = ElementTree.fromstring(text.getvalue())
  for parent in list(root.iter()):
    for child in list(parent):
      if child.tag.endswith("metadata"):
        parent.remove(child)
  for element in root.iter():
    # Inside HTML the names of SVG need no namespace.
    element.tag = element.tag.rpartition("}")[2]
    element.attrib = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
    if (tip := tips.get(element.get("id", ""))) is not None:
      title = ElementTree.Element("title")
      title.text = tip
      element.insert(0, title)
  return ElementTree.tostring(root, encoding="unicode")


def _draw(run):
  """Returns the figure, and {id of an element: its tip}; (None, {}) without a measurement."""
  quality = run.search_quality
  if quality is None:
    return None, {}
  figure = new_figure("Quality of the search", 9, 1.2 + 2.1 * len(quality.targets))
  all_axes = figure.subplots(len(quality.targets), 1, squeeze=False)[:, 0]
  tips = {}
  for axes, target in zip(all_axes, quality.targets, strict=True):
    _draw_target(axes, run, target, tips)
  all_axes[-1].set_xlabel("loss straight from the meta-state [nats]; lower is better")
  handles = [
      Line2D([], [], linestyle="", label=label, **style)
      for label, style in (("selected", _SELECTED), *_STYLES.items(), ("random, same cost", _RANDOM))]
  figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
  return figure, tips


def _draw_target(axes, run, target: TargetQuality, tips):
  name = format_target(target.target_gbops)

  def add(label, number, score, height, style):
    element_id = f"{label.replace(' ', '_')}-{name}-{number}"
    axes.plot(score.loss, height, linestyle="", gid=element_id, **style)
    tips[element_id] = _tip(run, label, score)

  # The heights only keep dots apart: multiples of the golden ratio fill the height evenly.
  heights = (np.arange(len(target.random)) * 0.618034) % 1
  for number, (score, height) in enumerate(zip(target.random, heights, strict=True)):
    add("random", number, score, 0.1 + 0.8 * height, _RANDOM)
  median = float(np.median([score.loss for score in target.random]))
  axes.axvline(median, color=BLACK, linewidth=0.8, linestyle=":")
  axes.annotate("median of random", (median, 1.0), (3, -1), textcoords="offset points", fontsize=7, va="top")
  for comparison in target.comparisons:
    add(comparison.name, 0, comparison.beside_random, 0.5, _STYLES.get(comparison.name, _FURTHER) | {"zorder": 3})
  add("selected", 0, target.selected_beside_random, 0.5, _SELECTED | {"zorder": 4})
  axes.set(yticks=[], ylim=(0, 1.08))
  axes.spines["left"].set_visible(False)
  axes.set_title(f"target {name} {run.unit}: {target.verdict}", loc="left", fontsize=9)
  axes.grid(axis="x")


def _tip(run: SavedRun, label: str, score: AssignmentScore) -> str:
  widths = candidate_widths(run.layers)
  counts = ", ".join(f"{list(score.bits.values()).count(width)} layers at {width} bits" for width in widths)
  bits = "\n".join(f"{name} {value}" for name, value in score.bits.items())
  return (f"{label}: {score.gbops:.6g} {run.unit}, loss {score.loss:.4f}, top-1 {score.top1:.2f} %\n{counts}\n{bits}")
