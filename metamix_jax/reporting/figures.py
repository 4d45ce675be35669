"""The figures of a run, drawn from its saved files; a figure is None if the run has not come that far."""

from collections.abc import Callable, Iterator

from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
import numpy as np

from metamix_jax.method.bops import candidate_widths, choices, cost_name, cost_unit, layer_gbops
from metamix_jax.records.names import STAGES, TRAINING_PHASES, format_target, name_for_target
from metamix_jax.records.results import FULL_PRECISION_TOP1, TOP1_OF_STAGE, TargetResult
from metamix_jax.reporting import curve, search_quality
from metamix_jax.reporting.saved_run import SavedRun
from metamix_jax.reporting.style import (
  BLACK,
  BLUE,
  GREY,
  KIND_STYLES,
  VERMILION,
  figure_height,
  label_layers,
  new_figure,
  series_style,
)

CAPTIONS = {
    "bits": (
        "Layers in network order from top to bottom. Where the most probable bits did not fit the target, they stand "
        "behind the selected ones."),
    "search_cost": "Dotted: the targets. The entropy falls to 0 when every layer has decided for one bit-width.",
    "probabilities": (
        "White marks the uniform probability, purple a higher one, orange a lower one; the scale spans the range that "
        "this search reached. Layers in network order from top to bottom, then searched kernels."),
    "training": "Open symbols: evaluated at the end of a phase, after the bit selection straight from the meta-state.",
    "activation_stability": (
        "The paper's motivation, measured: 0.1 means that a channel's mean and deviation move by a tenth of its "
        "standard deviation when the bits of all searched layers change."),
}
_FIXED_ALPHA = 0.35  # Layers that are not searched, behind the searched ones.


def bits_per_layer(target: TargetResult) -> Figure:
  """Draws bars in network order: the selected bits of each layer's input, and the layer's share of the cost.

  Where kernels were searched, the selected bits of each stand beside its bar, behind a slash.
  """
  layers, bits_of_layers, total = target.layers, target.all_bits, target.gbops
  figure = new_figure(
      f"Bits selected for each layer: {total:.4g} {cost_unit(layers)} of {format_target(target.target_gbops)}, "
      f"{target.average_activation_bits:.2f} activation bits on average", 10, figure_height(len(layers)))
  bits_axes, share_axes = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
  widths = sorted({bits for layer in layers if layer.quantized for bits in layer.candidate_bits})
  costs = [layer_gbops(layer, bits_of_layers[layer.name], bits_of_layers.get(layer.kernel_name)) for layer in layers]
  shares = [100 * cost / total if total else 0.0 for cost in costs]  # A cost of its own may be 0 everywhere.
  of_kernels = any(layer.candidate_weight_bits for layer in layers)
  for row, (layer, share) in enumerate(zip(layers, shares, strict=True)):
    style = {"edgecolor": BLACK, "linewidth": 0.4, "height": 0.72, **KIND_STYLES[layer.kind],
             "alpha": 1.0 if layer.searched else _FIXED_ALPHA}
    bits = bits_of_layers[layer.name]
    words = f"{bits}/{bits_of_layers.get(layer.kernel_name, layer.weight_bits)}" if of_kernels else f"{bits}"
    shown, words = (bits, words) if layer.quantized else (1.15 * widths[-1], "full precision")
    bits_axes.barh(row, shown, **style)
    share_axes.barh(row, share, **style)
    bits_axes.text(shown + 0.08, row, f"{words}{_most_probable(target, layer)}", va="center", fontsize=7)
    share_axes.text(share + 0.01 * max(shares), row, f"{share:.1f}", va="center", fontsize=7)
  label_layers(bits_axes, [layer.name for layer in layers])
  bits_axes.set(
      xlabel="bits of the input activations" + ("; beside the bars: activations/weights" if of_kernels else ""),
      xlim=(0, widths[-1] * 1.4), xticks=[0, *widths])
  share_axes.set(xlabel=f"share of the {cost_name(layers)} at these bits [%]", xlim=(0, 1.12 * max(shares) or 1.0))
  share_axes.tick_params(left=False)
  for axes in (bits_axes, share_axes):
    axes.grid(axis="x")
  kinds = [kind for kind in KIND_STYLES if any(layer.kind == kind for layer in layers)]
  handles = [Patch(edgecolor=BLACK, linewidth=0.4, label=kind, **KIND_STYLES[kind]) for kind in kinds]
  handles.append(Patch(facecolor=GREY, edgecolor=BLACK, linewidth=0.4, alpha=_FIXED_ALPHA, label="paler: not searched"))
  figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
  return figure


def _most_probable(target, layer):
  """Returns a note with the most probable bits of a layer, and of its kernel if that is searched, where they differ."""
  names = [layer.name, layer.kernel_name] if layer.candidate_weight_bits else [layer.name]
  if not any(name in target.changed for name in names):
    return ""
  return f"  (most probable: {'/'.join(str(target.most_probable_bits[name]) for name in names)})"


def probabilities(run: SavedRun, target_gbops: float) -> Figure | None:
  """Draws heat maps over layers and steps, one for each candidate bit-width; dots mark the selected bits.

  Where kernels are searched, each has a row too, behind those of the layers' inputs.
  """
  searched = choices(run.layers)
  widths = sorted({bits for candidates in searched.values() for bits in candidates})
  steps, _ = run.search_series(target_gbops, "gbops")
  if not len(steps):
    return None
  selected = next((result.bits for result in run.target_results if result.target_gbops == target_gbops), {})
  figure = new_figure(
      f"Probability of each bit-width during the search, target {format_target(target_gbops)} {run.unit}",
      2.2 + 2.4 * len(widths), figure_height(len(searched)))
  # A record closes the interval since the one before.
  edges = np.concatenate([[steps[0] - (steps[1] - steps[0] if len(steps) > 1 else 1)], steps])
  all_axes = figure.subplots(1, len(widths), sharey=True)
  values = _probability_values(run, target_gbops, list(searched), widths, len(steps))
  norm = _probability_colours(values)
  for axes, bits, of_bits in zip(all_axes, widths, values, strict=True):
    image = axes.pcolormesh(edges, np.arange(len(searched) + 1) - 0.5, of_bits, norm=norm, cmap="PuOr")
    axes.set_facecolor(GREY)
    rows = [row for row, name in enumerate(searched) if selected.get(name) == bits]
    if rows:  # An empty line outside the axes would confuse the layout.
      axes.plot([1.03] * len(rows), rows, "o", markersize=3.5, color=BLACK, clip_on=False,
                transform=axes.get_yaxis_transform())
    axes.set(title=f"{bits} bits", xlabel="step of the bit selection")
    axes.locator_params(axis="x", nbins=4, prune="both")
    axes.tick_params(left=False)
  label_layers(all_axes[0], list(searched))
  figure.colorbar(image, ax=list(all_axes), label="probability", aspect=40, pad=0.02)
  if selected:
    dot = Line2D([], [], color=BLACK, marker="o", linestyle="", markersize=3.5, label="selected in the end")
    figure.legend(handles=[dot], loc="outside lower center")
  return figure


def _probability_values(run, target_gbops, names, widths, num_steps):
  """Returns probabilities [bit-widths, names, steps]; NaN, drawn grey, if a layer or kernel lacks the candidate."""
  values = np.full((len(widths), len(names), num_steps), np.nan)
  for panel, bits in enumerate(widths):
    for row, name in enumerate(names):
      _, found = run.search_series(target_gbops, f"probability/{name}/{bits}")
      if len(found) == num_steps:
        values[panel, row] = found
  return values


def _probability_colours(values):
  """Returns a scale from orange, below the uniform probability, over white to purple; colour-blind readers see it too.

  A short search moves a probability by a few percent, so the scale spans the range that the search reached, and at
  least 0.001 to each side.
  """
  uniform = 1 / len(values)
  reach = max(np.nanmax(np.abs(values - uniform), initial=0), 1e-3)
  return TwoSlopeNorm(uniform, max(uniform - reach, 0), min(uniform + reach, 1))


def search_cost(run: SavedRun) -> Figure | None:
  """Draws the GBOPs of the hard selection against each target, and the mean entropy of the layers, over the steps."""
  figure = new_figure("Cost of the most probable bits during the search, against the target", 9, 6)
  cost_axes, entropy_axes = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
  selected = {result.target_gbops: result.gbops for result in run.target_results}
  num_steps = 0
  for index, target in enumerate(run.targets):
    style = series_style(index)
    steps, costs = run.search_series(target, "gbops")
    if not len(steps):
      continue
    num_steps = max(num_steps, len(steps))
    style |= {"markevery": max(1, len(steps) // 12), "linestyle": "-", "label": f"target {format_target(target)}"}
    cost_axes.plot(steps, costs, **style)
    cost_axes.axhline(target, color=style["color"], linestyle=":", linewidth=1.2)
    entropy_axes.plot(*run.search_series(target, "alpha_entropy"), **style)
    if target in selected:
      cost_axes.plot(steps[-1], selected[target], "*", color=style["color"], markersize=13, markeredgecolor="white",
                     clip_on=False, zorder=3)
  if not num_steps:
    return None
  cost_axes.set_ylabel(f"cost of one image [{run.unit}]")
  entropy_axes.set(xlabel="step of the bit selection", ylabel="mean entropy of\na layer's bits [nats]")
  entropy_axes.margins(y=0.15)
  entropy_axes.ticklabel_format(axis="y", useOffset=False)
  for axes in (cost_axes, entropy_axes):
    axes.grid()
  handles, _ = cost_axes.get_legend_handles_labels()
  handles.append(Line2D([], [], color=GREY, linestyle=":", label="target"))
  if selected:
    handles.append(Line2D([], [], color=GREY, marker="*", linestyle="", markersize=10, label="selected bits"))
  figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)))
  return figure


def training(run: SavedRun) -> Figure | None:
  """Draws loss and accuracy over the epochs, with a column for each training phase that has begun."""
  phases = {section: _phase_names(run, section) for section in TRAINING_PHASES}
  phases = {section: names for section, names in phases.items() if names}
  if not phases:
    return None
  figure = new_figure("Loss and accuracy of each phase", 1 + 3 * len(phases), 6.2)
  all_axes = figure.subplots(2, len(phases), sharex="col", sharey="row", squeeze=False)
  for (loss_axes, top1_axes), (section, names) in zip(all_axes.T, phases.items(), strict=True):
    series = {label: (name, "loss") for name, label in names.items()}
    of_bits = {f"{bits} bits": (section, f"loss/{bits}") for bits in candidate_widths(run.layers)}
    # A search on another run's meta-state has one loss, that of the mixtures.
    if section == "bit_selection" and any(len(run.series(*of_width)[0]) for of_width in of_bits.values()):
      series = of_bits
    for index, (label, (name, metric)) in enumerate(series.items()):
      epochs, losses = run.series(name, metric, over="epoch")
      loss_axes.plot(epochs, losses, label=label, markevery=max(1, len(epochs) // 8), **series_style(index))
      top1_axes.plot(*run.series(name, "top1", over="epoch"), **series_style(index))
    if len(series) > 1:
      loss_axes.legend(fontsize=7, title=f"target [{run.unit}]" if section in STAGES else None, title_fontsize=7)
    num_epochs = run.config[f"{section}.epochs"]
    for colour, marker, label, top1 in _results_of(run, section, names):
      top1_axes.plot(num_epochs, top1, marker, color=colour, markersize=8, markerfacecolor="none", clip_on=False,
                     label=label, zorder=3)
    if run.full_precision_top1 is not None:
      top1_axes.axhline(run.full_precision_top1, color=GREY, linestyle="--", linewidth=1, label="full precision")
    if top1_axes.get_legend_handles_labels()[0]:
      top1_axes.legend(fontsize=7, loc="lower left" if section == "bit_selection" else "lower right")
    loss_axes.set_title(section)
    top1_axes.set(xlabel="epoch", xlim=(0, num_epochs * 1.02))
    for axes in (loss_axes, top1_axes):
      axes.grid()
  all_axes[0, 0].set_ylabel("training loss [nats]")
  all_axes[1, 0].set_ylabel("top-1 on the evaluation split [%]")
  return figure


def activation_stability(run: SavedRun) -> Figure | None:
  """Draws how far batch statistics move between bit-widths, layer by layer, before and after bit-meta training."""
  stability = run.activation_stability
  if not stability or not stability.before:
    return None
  names = list(stability.before)
  before, after = ([distances[name] for name in names] for distances in (stability.before, stability.after))
  figure = new_figure(
      f"Activation stability: bit-widths disagree by {np.mean(before):.2f} standard deviations on average before,\n"
      f"by {np.mean(after):.2f} after bit-meta training", 9, figure_height(len(names)) + 0.2)
  axes = figure.subplots()
  rows = range(len(names))
  axes.hlines(rows, before, after, color=GREY, linewidth=1)
  axes.plot(before, rows, "s", color=VERMILION, markersize=5, markerfacecolor="white", label="before")
  axes.plot(after, rows, "o", color=BLUE, markersize=5, label="after bit-meta training")
  label_layers(axes, names)
  axes.set(
      xlabel="distance of a batch norm's input statistics between bit-widths [standard deviations]", xlim=(0, None))
  axes.grid(axis="x")
  figure.legend(loc="outside lower center", ncols=2)
  return figure


def _phase_names(run, section):
  """Returns {phase: label} of the phases of a section that have records."""
  begun = {line["phase"] for line in run.records}
  if section not in STAGES or len(run.targets) == 1:
    return {section: section} if section in begun else {}
  names = {run.phase_of(section, target): format_target(target) for target in run.targets}
  return {name: label for name, label in names.items() if name in begun}


def _results_of(run, section, names):
  """Yields (colour, marker, label, top-1) of each evaluation after a phase."""
  if section == "bit_selection":
    for index, uniform in enumerate(run.uniform_results):
      if uniform.top1 is not None:
        yield series_style(index)["color"], series_style(index)["marker"], f"{uniform.bits} bits", uniform.top1
    for index, target in enumerate(run.target_results):
      if target.meta_state_top1 is not None:
        yield BLACK, "*", "" if index else "selected bits", target.meta_state_top1
    return
  result = TOP1_OF_STAGE.get(section, FULL_PRECISION_TOP1)
  for index, name in enumerate(names):
    if name in run.results:
      yield series_style(index)["color"], "*", "" if index else "at its end", run.results[name][result]


def figures_of(run: SavedRun) -> Iterator[tuple[str, str, Callable[[], Figure | None]]]:
  """Yields (file name without its ending, caption, how to draw it) of every figure, in the order of the page."""
  yield "accuracy_against_cost", curve.CAPTION, lambda: curve.accuracy_against_cost(run)
  for result in run.target_results:
    name = name_for_target("bits", result.target_gbops, run.targets)
    yield name, CAPTIONS["bits"], lambda result=result: bits_per_layer(result)
  for chosen in run.chosen_targets:
    yield f"bits_{chosen.name}", CAPTIONS["bits"], lambda result=chosen.result: bits_per_layer(result)
  yield "search_quality", search_quality.CAPTION, lambda: search_quality.search_quality(run)
  yield "search_cost", CAPTIONS["search_cost"], lambda: search_cost(run)
  for target in run.targets:
    name = name_for_target("probabilities", target, run.targets)
    yield name, CAPTIONS["probabilities"], lambda target=target: probabilities(run, target)
  yield "training", CAPTIONS["training"], lambda: training(run)
  yield "activation_stability", CAPTIONS["activation_stability"], lambda: activation_stability(run)
