"""The figures of a run, each drawn from its saved files; None where the run has not come that far."""

from collections.abc import Callable, Iterator, Mapping

from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
import numpy as np

from metamix_jax.method.bops import gbops
from metamix_jax.records.names import STAGES, TRAINING_PHASES, format_target
from metamix_jax.reporting.saved_run import SavedRun, all_bits, pareto_points, uniform_points
from metamix_jax.reporting.style import (
  BLACK,
  BLUE,
  GREEN,
  GREY,
  ORANGE,
  VERMILION,
  height_of,
  list_layers,
  new_figure,
  series_style,
)

KIND_STYLES = {
    "conv": {"facecolor": BLUE, "hatch": ""},
    "depthwise": {"facecolor": ORANGE, "hatch": "////"},
    "dense": {"facecolor": GREEN, "hatch": "...."},
}
CAPTIONS = {
    "accuracy_against_cost": (
        "Straight from the meta-state, batch-norm statistics are re-estimated on a few training batches for each "
        "assignment; no weights were trained for it."),
    "bits": (
        "Layers in network order from top to bottom. Where the most probable bits did not fit the target, they stand "
        "behind the selected ones."),
    "search_cost": "Dotted: the targets. The entropy falls to 0 when every layer has decided for one bit-width.",
    "probabilities": (
        "White: as probable as if all bit-widths were alike; purple: more, orange: less. The colours span what this "
        "search reached. Layers in network order from top to bottom."),
    "training": "Open symbols: evaluated at the end of a phase, after the bit selection straight from the meta-state.",
    "activation_stability": (
        "The paper's motivation, measured: 0.1 means that a channel's mean and deviation move by a tenth of its "
        "standard deviation when the bits of all searched layers change."),
}
_FIXED_ALPHA = 0.35  # Layers that are not searched, behind the searched ones.


def bits_per_layer(run: SavedRun, point: Mapping) -> Figure:
  """Bars in network order: the selected bits of each layer's input, and its share of the cost beside."""
  layers, bits_of_layers, total = run.layers, all_bits(run, point), point["selected_gbops"]
  figure = new_figure(
      f"Bits selected for each layer: {total:.4g} GBOPs of {format_target(point['target_gbops'])}, "
      f"{point['average_activation_bits']:.2f} activation bits on average", 10, height_of(len(layers)))
  bits_axes, share_axes = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
  shares = [100 * gbops([layer], bits_of_layers) / total for layer in layers]
  for row, (layer, share) in enumerate(zip(layers, shares)):
    style = {"edgecolor": BLACK, "linewidth": 0.4, "height": 0.72, **KIND_STYLES[layer.kind],
             "alpha": 1.0 if layer.searched else _FIXED_ALPHA}
    bits = bits_of_layers[layer.name]
    bits_axes.barh(row, bits, **style)
    share_axes.barh(row, share, **style)
    note = f"  (most probable: {point['settled'][layer.name][0]})" if layer.name in point["settled"] else ""
    bits_axes.text(bits + 0.08, row, f"{bits}{note}", va="center", fontsize=7)
    share_axes.text(share + 0.01 * max(shares), row, f"{share:.1f}", va="center", fontsize=7)
  list_layers(bits_axes, [layer.name for layer in layers])
  widths = sorted({bits for layer in layers for bits in layer.candidate_bits})
  bits_axes.set(xlabel="bits of the input activations", xlim=(0, widths[-1] * 1.4), xticks=[0, *widths])
  share_axes.set(xlabel="share of the BOPs at these bits [%]", xlim=(0, 1.12 * max(shares)))
  share_axes.tick_params(left=False)
  for axes in (bits_axes, share_axes):
    axes.grid(axis="x")
  kinds = [kind for kind in KIND_STYLES if any(layer.kind == kind for layer in layers)]
  handles = [Patch(edgecolor=BLACK, linewidth=0.4, label=kind, **KIND_STYLES[kind]) for kind in kinds]
  handles.append(Patch(facecolor=GREY, edgecolor=BLACK, linewidth=0.4, alpha=_FIXED_ALPHA, label="paler: not searched"))
  figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
  return figure


def probabilities(run: SavedRun, target_gbops: float) -> Figure | None:
  """Heat maps over layers and steps, one for each candidate bit-width; dots mark what was selected."""
  searched = [layer for layer in run.layers if layer.searched]
  prefix = f"search/{format_target(target_gbops)}/probability"
  # Widths may differ between layers only in networks of the user's own; those a layer has not stay grey.
  widths = sorted({bits for layer in searched for bits in layer.candidate_bits})
  steps, _ = run.series("bit_selection", f"search/{format_target(target_gbops)}/gbops")
  if not len(steps):
    return None
  selected = {point["target_gbops"]: point["selected"] for point in pareto_points(run)}.get(target_gbops, {})
  figure = new_figure(
      f"Probability of each bit-width during the search, target {format_target(target_gbops)} GBOPs",
      2.2 + 2.4 * len(widths), height_of(len(searched)))
  # A record closes the interval since the one before.
  edges = np.concatenate([[steps[0] - (steps[1] - steps[0] if len(steps) > 1 else 1)], steps])
  all_axes = figure.subplots(1, len(widths), sharey=True)
  values = np.full((len(widths), len(searched), len(steps)), np.nan)
  for panel, bits in enumerate(widths):
    for row, layer in enumerate(searched):
      _, found = run.series("bit_selection", f"{prefix}/{layer.name}/{bits}")
      if len(found) == len(steps):
        values[panel, row] = found
  # From orange, less than all alike, over white to purple, more; colour-blind people can tell the two apart. A short
  # search moves a probability by a few percent, so the range is what it reached; where nothing moved, a least one.
  uniform = 1 / len(widths)
  reach = max(np.nanmax(np.abs(values - uniform), initial=0), 1e-3)
  norm = TwoSlopeNorm(uniform, max(uniform - reach, 0), min(uniform + reach, 1))
  for axes, bits, of_bits in zip(all_axes, widths, values):
    image = axes.pcolormesh(edges, np.arange(len(searched) + 1) - 0.5, of_bits, norm=norm, cmap="PuOr")
    axes.set_facecolor(GREY)
    rows = [row for row, layer in enumerate(searched) if selected.get(layer.name) == bits]
    if rows:  # An empty line outside the axes would confuse the layout.
      axes.plot([1.03] * len(rows), rows, "o", markersize=3.5, color=BLACK, clip_on=False,
                transform=axes.get_yaxis_transform())
    axes.set(title=f"{bits} bits", xlabel="step of the bit selection")
    axes.locator_params(axis="x", nbins=4, prune="both")
    axes.tick_params(left=False)
  list_layers(all_axes[0], [layer.name for layer in searched])
  figure.colorbar(image, ax=list(all_axes), label="probability", aspect=40, pad=0.02)
  if selected:
    dot = Line2D([], [], color=BLACK, marker="o", linestyle="", markersize=3.5, label="selected in the end")
    figure.legend(handles=[dot], loc="outside lower center")
  return figure


def search_cost(run: SavedRun) -> Figure | None:
  """GBOPs of the hard selection over the steps against each target; how decided the layers are."""
  figure = new_figure("Cost of the most probable bits during the search, against the target", 9, 6)
  cost_axes, entropy_axes = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
  settled = {point["target_gbops"]: point["selected_gbops"] for point in pareto_points(run)}
  num_steps = 0
  for index, target in enumerate(run.targets):
    style = series_style(index)
    steps, costs = run.series("bit_selection", f"search/{format_target(target)}/gbops")
    if not len(steps):
      continue
    num_steps = max(num_steps, len(steps))
    style |= {"markevery": max(1, len(steps) // 12), "linestyle": "-", "label": f"target {format_target(target)}"}
    cost_axes.plot(steps, costs, **style)
    cost_axes.axhline(target, color=style["color"], linestyle=":", linewidth=1.2)
    entropy_axes.plot(*run.series("bit_selection", f"search/{format_target(target)}/alpha_entropy"), **style)
    if target in settled:
      cost_axes.plot(steps[-1], settled[target], "*", color=style["color"], markersize=13, markeredgecolor="white",
                     clip_on=False, zorder=3)
  if not num_steps:
    return None
  cost_axes.set_ylabel("cost of one image [GBOPs]")
  entropy_axes.set(xlabel="step of the bit selection", ylabel="mean entropy of\na layer's bits [nats]")
  entropy_axes.margins(y=0.15)
  entropy_axes.ticklabel_format(axis="y", useOffset=False)
  for axes in (cost_axes, entropy_axes):
    axes.grid()
  handles, _ = cost_axes.get_legend_handles_labels()
  handles.append(Line2D([], [], color=GREY, linestyle=":", label="target"))
  if settled:
    handles.append(Line2D([], [], color=GREY, marker="*", linestyle="", markersize=10, label="selected bits"))
  figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)))
  return figure


def training(run: SavedRun) -> Figure | None:
  """Loss and accuracy over the epochs, a column for each training phase that has begun."""
  phases = {section: _phase_names(run, section) for section in TRAINING_PHASES}
  phases = {section: names for section, names in phases.items() if names}
  if not phases:
    return None
  figure = new_figure("Loss and accuracy of each phase", 1 + 3 * len(phases), 6.2)
  all_axes = figure.subplots(2, len(phases), sharex="col", sharey="row", squeeze=False)
  full_precision = run.results.get("pretraining", {}).get("full_precision_top1")
  for (loss_axes, top1_axes), (section, names) in zip(all_axes.T, phases.items()):
    series = {label: (name, "loss") for name, label in names.items()}
    if section == "bit_selection":
      series = {f"{bits} bits": (section, f"loss/{bits}") for bits in run.candidate_bits}
    for index, (label, (name, metric)) in enumerate(series.items()):
      epochs, losses = run.series(name, metric, over="epoch")
      loss_axes.plot(epochs, losses, label=label, markevery=max(1, len(epochs) // 8), **series_style(index))
      top1_axes.plot(*run.series(name, "top1", over="epoch"), **series_style(index))
    if len(series) > 1:
      loss_axes.legend(fontsize=7, title="target [GBOPs]" if section in STAGES else None, title_fontsize=7)
    num_epochs = run.config[f"{section}.epochs"]
    for colour, marker, label, top1 in _results_of(run, section, names):
      top1_axes.plot(num_epochs, top1, marker, color=colour, markersize=8, markerfacecolor="none", clip_on=False,
                     label=label, zorder=3)
    if full_precision is not None:
      top1_axes.axhline(full_precision, color=GREY, linestyle="--", linewidth=1, label="full precision")
    if top1_axes.get_legend_handles_labels()[0]:
      top1_axes.legend(fontsize=7, loc="lower left" if section == "bit_selection" else "lower right")
    loss_axes.set_title(section)
    top1_axes.set(xlabel="epoch", xlim=(0, num_epochs * 1.02))
    for axes in (loss_axes, top1_axes):
      axes.grid()
  all_axes[0, 0].set_ylabel("training loss [nats]")
  all_axes[1, 0].set_ylabel("top-1 on the evaluation split [%]")
  return figure


def accuracy_against_cost(run: SavedRun) -> Figure | None:
  """Top-1 over GBOPs of every budget, before and after weight training, with the uniform bit-widths."""
  uniform = [(bits, cost, top1) for bits, cost, top1 in uniform_points(run) if top1 is not None]
  if not uniform:
    return None
  figure = new_figure("Accuracy against cost: selected bits and uniform bits", 8, 5.2)
  axes = figure.subplots()
  axes.plot([cost for _, cost, _ in uniform], [top1 for _, _, top1 in uniform], "X", color=GREY, markersize=8,
            linestyle=":", linewidth=1, label="uniform bits, meta-state")
  for bits, cost, top1 in uniform:
    axes.annotate(f"{bits} bits", (cost, top1), (6, -11), textcoords="offset points", fontsize=8, color=GREY)
  stages = (
      ("selected_top1", "selected bits, meta-state", VERMILION, "o"), ("stage_a_top1", "after stage A", GREEN, "s"),
      ("final_top1", "final: after stage B", BLUE, "D"))
  for name, label, colour, marker in stages:
    points = sorted(
        (point["selected_gbops"], point[name]) for point in pareto_points(run) if point[name] is not None)
    if points:
      axes.plot(*zip(*points), marker=marker, color=colour, linewidth=1.3, label=label, markeredgecolor="white")
  full_precision = run.results.get("pretraining", {}).get("full_precision_top1")
  if full_precision is not None:
    axes.axhline(full_precision, color=BLACK, linestyle="--", linewidth=1, label="full precision")
  for number, target in enumerate(run.targets):
    axes.axvline(target, color=GREY, linewidth=0.8, linestyle=":", zorder=0, label="" if number else "target")
  axes.set(xlabel="cost of one image [GBOPs]", ylabel="top-1 on the evaluation split [%]")
  axes.margins(x=0.08, y=0.12)
  axes.grid()
  figure.legend(loc="outside lower center", ncols=3)
  return figure


def activation_stability(run: SavedRun) -> Figure | None:
  """How far batch statistics move between bit-widths, layer by layer, before and after bit-meta training."""
  stability = run.results.get("bit_selection", {}).get("activation_stability")
  if not stability:
    return None
  names = list(stability["before"])
  before, after = ([stability[when][name] for name in names] for when in ("before", "after"))
  figure = new_figure(
      f"Activation stability: bit-widths disagree by {np.mean(before):.2f} standard deviations on average before,\n"
      f"by {np.mean(after):.2f} after bit-meta training", 9, height_of(len(names)) + 0.2)
  axes = figure.subplots()
  rows = range(len(names))
  axes.hlines(rows, before, after, color=GREY, linewidth=1)
  axes.plot(before, rows, "s", color=VERMILION, markersize=5, markerfacecolor="white", label="before")
  axes.plot(after, rows, "o", color=BLUE, markersize=5, label="after bit-meta training")
  list_layers(axes, names)
  axes.set(
      xlabel="distance of a batch norm's input statistics between bit-widths [standard deviations]", xlim=(0, None))
  axes.grid(axis="x")
  figure.legend(loc="outside lower center", ncols=2)
  return figure


def _phase_names(run, section):
  """{phase: label} of those of a section that have records."""
  begun = {line["phase"] for line in run.records}
  if section not in STAGES or len(run.targets) == 1:
    return {section: section} if section in begun else {}
  names = {run.phase_of(section, target): f"{format_target(target)}" for target in run.targets}
  return {name: label for name, label in names.items() if name in begun}


def _results_of(run, section, names):
  """(colour, marker, label, top-1) of what was evaluated after a phase."""
  if section == "bit_selection":
    for index, (bits, _, top1) in enumerate(uniform_points(run)):
      if top1 is not None:
        yield series_style(index)["color"], series_style(index)["marker"], f"{bits} bits", top1
    for index, point in enumerate(pareto_points(run)):
      if point["selected_top1"] is not None:
        yield BLACK, "*", "" if index else "selected bits", point["selected_top1"]
    return
  result = {"pretraining": "full_precision_top1", "stage_a": "stage_a_top1", "stage_b": "final_top1"}[section]
  for index, name in enumerate(names):
    if name in run.results:
      yield series_style(index)["color"], "*", "" if index else "at its end", run.results[name][result]


def figures_of(run: SavedRun) -> Iterator[tuple[str, str, Callable[[], Figure | None]]]:
  """(file name without its ending, caption, how to draw it) of every figure, in the order of the page."""
  def named(name, target):
    return name if len(run.targets) == 1 else f"{name}_{format_target(target)}"

  yield "accuracy_against_cost", CAPTIONS["accuracy_against_cost"], lambda: accuracy_against_cost(run)
  for point in pareto_points(run):
    yield named("bits", point["target_gbops"]), CAPTIONS["bits"], lambda point=point: bits_per_layer(run, point)
  yield "search_cost", CAPTIONS["search_cost"], lambda: search_cost(run)
  for target in run.targets:
    yield named("probabilities", target), CAPTIONS["probabilities"], lambda target=target: probabilities(run, target)
  yield "training", CAPTIONS["training"], lambda: training(run)
  yield "activation_stability", CAPTIONS["activation_stability"], lambda: activation_stability(run)
