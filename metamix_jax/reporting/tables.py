"""Tables for a terminal: the summary of a run, and the cost of a network layer by layer."""

from collections.abc import Mapping, Sequence

from metamix_jax.method.bops import (
    LayerCost,
    attainable_range,
    average_activation_bits,
    gbops,
    layer_gbops,
    uniform_bits,
    uniform_widths,
)
from metamix_jax.method.layer_bits import LayerBits, deciding_pattern
from metamix_jax.records.names import format_target
from metamix_jax.records.search_quality import AssignmentScore, SearchQuality
from metamix_jax.reporting.saved_run import SavedRun


def format_table(run: SavedRun) -> str:
  """Returns the results of a finished run as text: the layers of a single target, or the curve of several.

  Raises:
    ValueError: the run is not finished.
  """
  if run.summary is None:
    raise ValueError(f"{run.folder} holds a run that is not finished; it has no summary.")
  lines = _format_target(run) if len(run.targets) == 1 else []
  if len(run.targets) > 1 or run.chosen_targets:
    lines += format_curve(run)
  if run.summary["skipped_records"]:
    lines += [
        "", f"{run.summary['skipped_records']} records could not be decoded and were left out; the log names them"]
  lines += ["", *_search_verdicts(run)]
  seconds = run.summary["seconds"]
  times = ", ".join(f"{name} {value:.0f}" for name, value in seconds.items())
  lines += ["", f"Seconds: {times}; {sum(seconds.values()):.0f} in all"]
  return "\n".join(lines)


def _search_verdicts(run):
  """Returns a line for each target that says how good its selection is; one line where it was not measured."""
  if run.search_quality is None:
    return [f"How good the search is was not measured: scripts/search_quality.py {run.folder}"]
  return [f"Search for {format_target(target.target_gbops)} GBOPs: the selection {_sentence(target)}"
          for target in run.search_quality.targets]


def format_curve(run: SavedRun) -> list[str]:
  """Returns the lines of the curve: searched and chosen targets and uniform bit-widths in the order of their cost."""
  lines = [
      "", "Accuracy and cost: GBOPs of one image; top-1 in %, from the meta-state and after each stage",
      f"  {'target':<14} {'selected':>10} {'average bits':>13} {'meta-state':>11} {'stage A':>8} {'final':>7}"]
  uniform = [
      (result.gbops, f"all at {result.bits} bits", None, result.top1, None, None, "")
      for result in run.uniform_results]
  targets = [
      (result.gbops, format_target(result.target_gbops), result.average_activation_bits, result.meta_state_top1,
       result.stage_a_top1, result.final_top1, "" if result.target_met else "  TARGET MISSED")
      for result in run.target_results]
  chosen = [
      (result.gbops, format_target(result.target_gbops), result.average_activation_bits, result.meta_state_top1, None,
       None, "  chosen afterwards" + ("" if result.target_met else ", TARGET MISSED"))
      for result in (other.result for other in run.chosen_targets)]
  for cost, name, bits, meta_state, stage_a, final, note in sorted(
      uniform + targets + chosen, key=lambda row: row[0]):
    cells = " ".join([
        f"{cost:>10.6f}", _cell(bits, 13, 3), _cell(meta_state, 11, 2), _cell(stage_a, 8, 2), _cell(final, 7, 2)])
    lines.append(f"  {name:<14} {cells}".rstrip() + note)
  if run.full_precision_top1 is not None:
    lines.append(f"  full precision {run.full_precision_top1:>36.2f}")
  return lines


def _cell(value, width, digits):
  return " " * width if value is None else f"{value:>{width}.{digits}f}"


def _format_target(run):
  """Returns the lines of the only target: its layers, cost and top-1s."""
  result, = run.target_results
  lines = ["", "Bits selected for each layer's input activations"]
  lines += [f"  {name:<24} {bits}" for name, bits in result.bits.items()]
  lines += ["", "Cost of one image [GBOPs]"]
  lines += [f"  all searched layers at {uniform.bits} bits {uniform.gbops:>12.6f}" for uniform in run.uniform_results]
  lines.append(f"  target                        {result.target_gbops:>12.6f}")
  lines.append(f"  selected                      {result.gbops:>12.6f}")
  changed = ", ".join(f"{name} {before} -> {after}" for name, (before, after) in result.changed.items())
  if changed:
    lines.append(f"  argmax alpha cost {result.most_probable_gbops:.6f}; settled at the target by {changed}")
  if not result.target_met:
    lines.append(
        f"  TARGET MISSED: the selection is over the target, or more than {100 * result.tolerance:g} % below it")
  lines.append(f"  average activation bits       {result.average_activation_bits:>12.3f}")
  return lines + _format_top1s(run, result)


def _format_top1s(run, result):
  """Returns the lines of the top-1s of the run and of its only target."""
  lines = ["", "Top-1 [%]", f"  full precision                        {run.full_precision_top1:>7.2f}"]
  lines += [
      f"  meta-state, all at {uniform.bits} bits             {uniform.top1:>7.2f}"
      f"  ({uniform.shared_top1:.2f} with shared batch-norm statistics)" for uniform in run.uniform_results]
  lines.append(f"  selected bits, before weight training {result.meta_state_top1:>7.2f}")
  if result.final_top1 is not None:
    lines.append(f"  after stage A (activations quantised) {result.stage_a_top1:>7.2f}")
    lines.append(f"  final (weights quantised too)         {result.final_top1:>7.2f}")
  return lines


SEARCH_QUALITY_HEADER = (
    "target [GBOPs]", "assignment", "cost [GBOPs]", "loss [nats]", "top-1 [%]", "difference [nats]")


def search_quality_rows(quality: SearchQuality) -> list[tuple[str, ...]]:
  """Returns rows under SEARCH_QUALITY_HEADER: each target's selection and baselines, then the uniform bit-widths."""
  rows = []
  for target in quality.targets:
    name = format_target(target.target_gbops)
    by_loss = sorted(target.random, key=lambda score: score.loss)
    rows += [
        _quality_row(name, "selected", target.selected),
        _quality_row(name, "selected, beside random", target.selected_beside_random),
        _quality_row(name, "best random", by_loss[0]),
        _quality_row(name, "median random", by_loss[len(by_loss) // 2])]
    for comparison in target.comparisons:
      low, high = comparison.interval
      rows.append(_quality_row(
          name, comparison.name, comparison.score, f"{comparison.difference:+.4f} ({low:+.4f} to {high:+.4f})"))
  return rows + [
      _quality_row("", f"all at {bits} bits", score) for bits, score in sorted(quality.uniform.items())]


def _quality_row(target: str, assignment: str, score: AssignmentScore, difference: str = "") -> tuple[str, ...]:
  return target, assignment, f"{score.gbops:.6f}", f"{score.loss:.4f}", f"{score.top1:.2f}", difference


def format_search_quality(run: SavedRun) -> str:
  """Returns the quality of the search as text: the verdict of each target, and a table.

  Raises:
    ValueError: it was not measured.
  """
  quality = run.search_quality
  if quality is None:
    raise ValueError(f"the search quality of {run.folder} was not measured.")
  rows = [SEARCH_QUALITY_HEADER, *search_quality_rows(quality)]
  widths = [max(len(row[column]) for row in rows) for column in range(len(SEARCH_QUALITY_HEADER))]
  lines = ["", f"Quality of the search, straight from the meta-state, on {quality.num_images} images"]
  for target, assignment, *numbers in rows:
    cells = [f"{target:<{widths[0]}}", f"{assignment:<{widths[1]}}"] + [
        f"{number:>{width}}" for number, width in zip(numbers, widths[2:], strict=True)]
    lines.append(f"  {'  '.join(cells)}".rstrip())
  lines += [
      "", f"Random assignments, and the selection beside them: on {quality.num_random_images} of the images",
      "Difference: loss of the selection minus loss of the assignment, with its 95 % interval"]
  lines += [
      f"{format_target(target.target_gbops)} GBOPs: the selection {_sentence(target)}" for target in quality.targets]
  times = ", ".join(f"{name} {seconds:.0f}" for name, seconds in quality.seconds.items())
  return "\n".join([*lines, f"Seconds: {times}; {sum(quality.seconds.values()):.0f} in all"])


def _sentence(target):
  return target.verdict if target.better_than_chance else f"is {target.verdict}"


def format_costs(
    layers: Sequence[LayerCost], activation_bits: Mapping[str, int], layer_bits: LayerBits = ()
) -> str:
  """Returns the BOPs report of an assignment as text: MACs, bits and share of each layer; the totals; the rule (M8).

  Args:
    layers: every quantised layer.
    activation_bits: bits by layer name.
    layer_bits: the patterns of the config; the report shows what each of them caught.
  """
  total = gbops(layers, activation_bits)
  width = max(len(layer.name) for layer in layers)
  lines = [f"{'layer':<{width}}  {'kind':<9}  {'MACs':>12}  weight bits  activation bits  share of BOPs"]
  for layer in layers:
    share = layer_gbops(layer, activation_bits[layer.name]) / total
    note = "" if layer.searched else "  not searched" if layer.quantized else "  full precision"
    lines.append(
        f"{layer.name:<{width}}  {layer.kind:<9}  {layer.macs:>12,}  {layer.weight_bits:>11}  "
        f"{activation_bits[layer.name]:>15}  {share:>13.2%}{note}")
  searched = [layer for layer in layers if layer.searched]
  fixed = " and ".join(
      f"{layer.name} ({layer.candidate_bits[0]}/{layer.weight_bits})" for layer in layers if not layer.searched)
  lines += _format_patterns(layers, layer_bits)
  lowest, highest = attainable_range(layers)
  lines += [
      "", f"{len(layers)} layers, {len(searched)} searched; {sum(layer.macs for layer in layers):,} MACs",
      f"This assignment            {total:12.6f} GBOPs, "
      f"{average_activation_bits(layers, activation_bits):.3f} activation bits on average",
  ]
  for bits in uniform_widths(layers):
    lines.append(f"Searched layers all at {bits}   {gbops(layers, uniform_bits(layers, bits)):12.6f} GBOPs")
  lines += [
      f"Attainable range           {lowest:12.6f} to {highest:.6f} GBOPs",
      "",
      "Rule: BOPs = sum of MACs x weight bits x activation bits over every convolution and dense layer, one image.",
      f"Not searched, {fixed} (activation/weight bits); weights elsewhere "
      f"{', '.join(str(bits) for bits in sorted({layer.weight_bits for layer in searched}))} bits.",
      "Batch norm, additions and pooling are not counted. Published figures differ in this rule.",
  ]
  return "\n".join(lines)


def _format_patterns(layers, layer_bits):
  """Returns a line for each pattern of config.quantization.layer_bits: its bits, the layers that it decides over."""
  lines = ["", "What each pattern of config.quantization.layer_bits caught"] if layer_bits else []
  deciding = {layer.name: deciding_pattern(layer_bits, layer.name) for layer in layers}
  for pattern, bits in layer_bits:
    words = "full precision" if bits is None else f"candidates {', '.join(map(str, bits))}" if isinstance(
        bits, tuple) else f"{bits}/{bits}"
    caught = [name for name, other in deciding.items() if other == pattern]
    lines.append(f"  {pattern} ({words}): {', '.join(caught) or 'nothing, for more specific patterns decide'}")
  return lines
