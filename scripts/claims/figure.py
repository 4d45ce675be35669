"""The figure of claim c, the paper's figure 2: running variance of batch norm over the steps of two searches."""

import pathlib

from matplotlib.figure import Figure

from claims.results import Claim
from metamix_jax.reporting.style import BLUE, VERMILION, new_figure, save

_COLUMNS = 4


def write(claim: Claim, path: pathlib.Path) -> bool:
  """Draws the figure to a PNG; returns False, and removes an earlier one, where the claim has no results."""
  return save(lambda: draw(claim), path)


def draw(claim: Claim) -> Figure | None:
  """Draws each depthwise layer's running variance, one thin line a seed, with the method and without it."""
  if not claim.results:
    return None
  seeds = [result["values"]["depthwise_running_variance"] for result in claim.results.values()]
  names = list(seeds[0]["with"]["layers"])
  rows = -(-len(names) // _COLUMNS)
  figure = new_figure("Running variance of batch norm behind the depthwise layers", 11, 1 + 2.3 * rows)
  grid = list(figure.subplots(rows, _COLUMNS, squeeze=False, sharex=True).flat)
  labelled = {}
  for axes, name in zip(grid, names, strict=False):
    for which, colour in (("without", VERMILION), ("with", BLUE)):
      for seed in seeds:
        line, = axes.plot(seed[which]["steps"], seed[which]["layers"][name], color=colour, linewidth=0.8, alpha=0.8)
        labelled[which] = line
    axes.set(title=name.removesuffix("_norm"), yscale="log", xlabel="step of the search")
    axes.grid()
  for axes in grid[len(names):]:
    axes.set_axis_off()
  figure.legend(
      [labelled["with"], labelled["without"]],
      ["the method: bit-meta steps, running statistics read after the widest bit-width",
       "weights and bits searched together"], loc="outside lower center", ncols=2)
  return figure
