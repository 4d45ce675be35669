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
from metamix_jax.records.names import format_target
from metamix_jax.reporting.saved_run import SavedRun


def format_table(run: SavedRun) -> str:
  """Writes a finished run for a terminal: the layers of a single target, or the accuracy-cost curve of several."""
  if run.summary is None:
    raise ValueError(f"{run.folder} holds a run that is not finished; it has no summary.")
  lines = _format_target(run) if len(run.targets) == 1 else _format_curve(run)
  if run.summary["skipped_records"]:
    lines += [
        "", f"{run.summary['skipped_records']} records could not be decoded and were left out; the log names them"]
  seconds = run.summary["seconds"]
  times = ", ".join(f"{name} {value:.0f}" for name, value in seconds.items())
  lines += ["", f"Seconds: {times}; {sum(seconds.values()):.0f} in all"]
  return "\n".join(lines)


def _format_curve(run):
  """Lines of the curve: targets and uniform bit-widths in the order of their cost."""
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
  for cost, name, bits, meta_state, stage_a, final, note in sorted(uniform + targets, key=lambda row: row[0]):
    cells = " ".join([
        f"{cost:>10.6f}", _cell(bits, 13, 3), _cell(meta_state, 11, 2), _cell(stage_a, 8, 2), _cell(final, 7, 2)])
    lines.append(f"  {name:<14} {cells}".rstrip() + note)
  lines.append(f"  full precision {run.full_precision_top1:>36.2f}")
  return lines


def _cell(value, width, digits):
  return " " * width if value is None else f"{value:>{width}.{digits}f}"


def _format_target(run):
  """Lines of the only target: its layers, cost and top-1."""
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
  """Lines of the top-1s of the run and of its only target."""
  lines = ["", "Top-1 [%]", f"  full precision                        {run.full_precision_top1:>7.2f}"]
  lines += [
      f"  meta-state, all at {uniform.bits} bits             {uniform.top1:>7.2f}"
      f"  ({uniform.shared_top1:.2f} with shared batch-norm statistics)" for uniform in run.uniform_results]
  lines.append(f"  selected bits, before weight training {result.meta_state_top1:>7.2f}")
  if result.final_top1 is not None:
    lines.append(f"  after stage A (activations quantised) {result.stage_a_top1:>7.2f}")
    lines.append(f"  final (weights quantised too)         {result.final_top1:>7.2f}")
  return lines


def format_costs(layers: Sequence[LayerCost], activation_bits: Mapping[str, int]) -> str:
  """Writes the BOPs report of an assignment: MACs, bits and share of each layer; the totals; the rule (M8).

  Args:
    layers: every quantised layer.
    activation_bits: by layer name.
  """
  total = gbops(layers, activation_bits)
  width = max(len(layer.name) for layer in layers)
  lines = [f"{'layer':<{width}}  {'kind':<9}  {'MACs':>12}  weight bits  activation bits  share of BOPs"]
  for layer in layers:
    share = layer_gbops(layer, activation_bits[layer.name]) / total
    note = "" if layer.searched else "  not searched"
    lines.append(
        f"{layer.name:<{width}}  {layer.kind:<9}  {layer.macs:>12,}  {layer.weight_bits:>11}  "
        f"{activation_bits[layer.name]:>15}  {share:>13.2%}{note}")
  searched = [layer for layer in layers if layer.searched]
  fixed = [layer for layer in layers if not layer.searched]
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
      f"Not searched, {' and '.join(f'{layer.name} ({layer.candidate_bits[0]}/{layer.weight_bits})' for layer in fixed)} "
      "(activation/weight bits); weights elsewhere "
      f"{', '.join(str(bits) for bits in sorted({layer.weight_bits for layer in searched}))} bits.",
      "Batch norm, additions and pooling are not counted. Published figures differ in this rule.",
  ]
  return "\n".join(lines)
