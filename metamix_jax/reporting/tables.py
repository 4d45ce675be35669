"""Tables for a terminal: the summary of a run, and the cost of a network layer by layer."""

from collections.abc import Mapping, Sequence

from metamix_jax.method.bops import LayerCost, attainable_range, average_activation_bits, gbops, uniform_bits
from metamix_jax.records.names import format_target


def format_table(summary: Mapping) -> str:
  """The summary for a terminal: of one budget its layers, of several the accuracy-cost curve."""
  lines = _format_budget(summary) if "selected" in summary else _format_curve(summary)
  if summary["skipped_records"]:
    lines += ["", f"{summary['skipped_records']} records could not be decoded and were left out; the log names them"]
  times = ", ".join(f"{name} {value:.0f}" for name, value in summary["seconds"].items())
  lines += ["", f"Seconds: {times}; {sum(summary['seconds'].values()):.0f} in all"]
  return "\n".join(lines)


def _format_curve(summary):
  """Lines of the curve: budgets and uniform bit-widths in the order of their cost."""
  lines = [
      "", "Accuracy and cost: GBOPs of one image; top-1 in %, from the meta-state and after each stage",
      f"  {'target':<14} {'selected':>10} {'average bits':>13} {'meta-state':>11} {'stage A':>8} {'final':>7}"]
  uniform = [
      (point["gbops"], f"all at {point['bits']} bits", None, point["top1"], None, None, "")
      for point in summary["pareto"]["uniform"]]
  budgets = [
      (point["selected_gbops"], format_target(point["target_gbops"]), point["average_activation_bits"],
       point["selected_top1"], point["stage_a_top1"], point["final_top1"],
       "" if point["target_met"] else "  TARGET MISSED")
      for point in summary["pareto"]["budgets"]]
  for cost, name, bits, selected, stage_a, final, note in sorted(uniform + budgets, key=lambda row: row[0]):
    cells = " ".join([
        f"{cost:>10.6f}", _cell(bits, 13, 3), _cell(selected, 11, 2), _cell(stage_a, 8, 2), _cell(final, 7, 2)])
    lines.append(f"  {name:<14} {cells}".rstrip() + note)
  lines.append(f"  full precision {summary['full_precision_top1']:>36.2f}")
  return lines


def _cell(value, width, digits):
  return " " * width if value is None else f"{value:>{width}.{digits}f}"


def _format_budget(summary):
  """Lines of one budget's layers, cost and top-1."""
  lines = ["", "Bits selected for each layer's input activations"]
  lines += [f"  {name:<24} {bits}" for name, bits in summary["selected"].items()]
  lines.append("")
  lines.append("Cost of one image [GBOPs]")
  lines += [f"  all searched layers at {bits} bits {cost:>12.6f}" for bits, cost in summary["uniform_gbops"].items()]
  lines.append(f"  target                        {summary['target_gbops']:>12.6f}")
  lines.append(f"  selected                      {summary['selected_gbops']:>12.6f}")
  changed = ", ".join(f"{name} {before} -> {after}" for name, (before, after) in summary["settled"].items())
  if changed:
    lines.append(f"  argmax alpha cost {summary['argmax_gbops']:.6f}; settled at the target by {changed}")
  if not summary["target_met"]:
    tolerance = 100 * summary["config"]["arch.target_tolerance"]
    lines.append(f"  TARGET MISSED: the selection is over the target, or more than {tolerance:g} % below it")
  lines.append(f"  average activation bits       {summary['average_activation_bits']:>12.3f}")
  lines.append("")
  lines.append("Top-1 [%]")
  lines.append(f"  full precision                        {summary['full_precision_top1']:>7.2f}")
  for bits, top1 in summary["meta_state_top1"].items():
    lines.append(
        f"  meta-state, all at {bits} bits             {top1['reestimated']:>7.2f}"
        f"  ({top1['shared']:.2f} with shared batch-norm statistics)")
  lines.append(f"  selected bits, before weight training {summary['selected_top1']:>7.2f}")
  if summary["final_top1"] is not None:
    lines.append(f"  after stage A (activations quantised) {summary['stage_a_top1']:>7.2f}")
    lines.append(f"  final (weights quantised too)         {summary['final_top1']:>7.2f}")
  return lines


def format_costs(layers: Sequence[LayerCost], activation_bits: Mapping[str, int]) -> str:
  """The BOPs report of an assignment: MACs, bits and share of each layer; the totals; the rule (M8).

  Args:
    layers: every quantised layer.
    activation_bits: by layer name.
  """
  total = gbops(layers, activation_bits)
  width = max(len(layer.name) for layer in layers)
  lines = [f"{'layer':<{width}}  {'kind':<9}  {'MACs':>12}  weight bits  activation bits  share of BOPs"]
  for layer in layers:
    share = layer.macs * layer.weight_bits * activation_bits[layer.name] / 1e9 / total
    note = "" if layer.searched else "  not searched"
    lines.append(
        f"{layer.name:<{width}}  {layer.kind:<9}  {layer.macs:>12,}  {layer.weight_bits:>11}  "
        f"{activation_bits[layer.name]:>15}  {share:>13.2%}{note}")
  searched = [layer for layer in layers if layer.searched]
  fixed = [layer for layer in layers if not layer.searched]
  widths = searched[0].candidate_bits
  lowest, highest = attainable_range(layers)
  lines += [
      "", f"{len(layers)} layers, {len(searched)} searched; {sum(layer.macs for layer in layers):,} MACs",
      f"This assignment            {total:12.6f} GBOPs, "
      f"{average_activation_bits(layers, activation_bits):.3f} activation bits on average",
  ]
  for index, bits in enumerate(widths):
    lines.append(f"Searched layers all at {bits}   {gbops(layers, uniform_bits(layers, index)):12.6f} GBOPs")
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
