"""The figure of accuracy against cost: a run's targets beside the uniform bit-widths."""

from matplotlib.figure import Figure

from metamix_jax.reporting.saved_run import SavedRun
from metamix_jax.reporting.style import BLACK, BLUE, GREEN, GREY, VERMILION, new_figure

CAPTION = (
    "Straight from the meta-state, batch-norm statistics are re-estimated on a few training batches for each "
    "assignment; no weights were trained for it.")


def accuracy_against_cost(run: SavedRun) -> Figure | None:
  """Draws top-1 over GBOPs of every target, before and after weight training, with the uniform bit-widths.

  Targets that were chosen after the search stand alone, for the line joins those that were searched.
  """
  uniform = [(result.bits, result.gbops, result.top1) for result in run.uniform_results if result.top1 is not None]
  if not uniform and all(result.meta_state_top1 is None for result in run.target_results):
    return None
  figure = new_figure("Accuracy against cost: selected bits and uniform bits", 8, 5.2)
  axes = figure.subplots()
  if uniform:
    axes.plot([cost for _, cost, _ in uniform], [top1 for _, _, top1 in uniform], "X", color=GREY, markersize=8,
              linestyle=":", linewidth=1, label="uniform bits, meta-state")
  for bits, cost, top1 in uniform:
    axes.annotate(f"{bits} bits", (cost, top1), (6, -11), textcoords="offset points", fontsize=8, color=GREY)
  stages = (
      ("meta_state_top1", "selected bits, meta-state", VERMILION, "o"), ("stage_a_top1", "after stage A", GREEN, "s"),
      ("final_top1", "final: after stage B", BLUE, "D"))
  for name, label, colour, marker in stages:
    reached = sorted(
        (result.gbops, getattr(result, name)) for result in run.target_results if getattr(result, name) is not None)
    if reached:
      axes.plot(*zip(*reached, strict=True), marker=marker, color=colour, linewidth=1.3, label=label,
                markeredgecolor="white")
  chosen = [(other.result.gbops, other.result.meta_state_top1) for other in run.chosen_targets]
  if chosen:
    axes.plot(*zip(*chosen, strict=True), linestyle="", marker="o", color=VERMILION, markerfacecolor="white",
              markersize=7, label="chosen afterwards, meta-state")
  if run.full_precision_top1 is not None:
    axes.axhline(run.full_precision_top1, color=BLACK, linestyle="--", linewidth=1, label="full precision")
  for number, target in enumerate(run.targets):
    axes.axvline(target, color=GREY, linewidth=0.8, linestyle=":", zorder=0, label="" if number else "target")
  axes.set(xlabel=f"cost of one image [{run.unit}]", ylabel="top-1 on the evaluation split [%]")
  axes.margins(x=0.08, y=0.12)
  axes.grid()
  figure.legend(loc="outside lower center", ncols=3)
  return figure
