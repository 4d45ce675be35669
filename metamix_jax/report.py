"""DIR/report/summary.json, and the same as a table for people."""

from collections.abc import Mapping, Sequence
import importlib.metadata
import json
import pathlib
import platform

import ml_collections

from metamix_jax import config as config_rules
from metamix_jax.bops import LayerCost, attainable_range, average_activation_bits, gbops, uniform_bits
from metamix_jax.selection import bits_of

PACKAGES = ("metamix_jax", "jax", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "ml-collections")


def summarize(
    config: ml_collections.ConfigDict, layers: Sequence[LayerCost], candidates: Mapping[str, int],
    most_probable: Mapping[str, int], evaluated: Mapping, seconds: Mapping[str, float],
    skipped_records: int, best: Mapping[str, dict | None],
) -> dict:
  """The summary of a run: top-1 in percent, costs in GBOPs of one image, bits by layer name, seconds by phase.

  `skipped_records` counts the images that this start of the run met and could not decode; `best` has the best
  evaluated step of each phase, {"step", "top1"}, or None.
  """
  bits = bits_of(layers, candidates)
  argmax_bits = bits_of(layers, most_probable)
  widths = next(layer.candidate_bits for layer in layers if layer.searched)
  selected_gbops, target = gbops(layers, bits), config.arch.target_gbops
  return {
      "full_precision_top1": evaluated["full_precision_top1"],
      "meta_state_top1": evaluated["meta_state_top1"],
      "selected": {layer.name: bits[layer.name] for layer in layers if layer.searched},
      "settled": {name: [argmax_bits[name], bits[name]] for name in bits if bits[name] != argmax_bits[name]},
      "target_gbops": target,
      "argmax_gbops": gbops(layers, argmax_bits),
      "selected_gbops": selected_gbops,
      "target_met": (1 - config.arch.target_tolerance) * target <= selected_gbops <= target,
      "uniform_gbops": {str(width): gbops(layers, uniform_bits(layers, i)) for i, width in enumerate(widths)},
      "average_activation_bits": average_activation_bits(layers, bits),
      "selected_top1": evaluated["selected_top1"],
      "stage_a_top1": evaluated["stage_a_top1"],
      "final_top1": evaluated["final_top1"],
      "best": {phase: step for phase, step in best.items() if step},
      "skipped_records": skipped_records,
      "seconds": dict(seconds),
      "seed": config.seed,
      "config": config_rules.flatten(config),
      "versions": {"python": platform.python_version()} | {
          package: importlib.metadata.version(package) for package in PACKAGES},
  }


def write_summary(path: pathlib.Path, summary: Mapping) -> None:
  """Writes the summary as JSON, whole or not at all."""
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_suffix(".partial")
  partial.write_text(json.dumps(summary, indent=2) + "\n")
  partial.rename(path)


def format_table(summary: Mapping) -> str:
  """The summary for a terminal."""
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
  lines.append(f"  after stage A (activations quantised) {summary['stage_a_top1']:>7.2f}")
  lines.append(f"  final (weights quantised too)         {summary['final_top1']:>7.2f}")
  if summary["skipped_records"]:
    lines += ["", f"{summary['skipped_records']} records could not be decoded and were left out; the log names them"]
  times = ", ".join(f"{name} {value:.0f}" for name, value in summary["seconds"].items())
  lines += ["", f"Seconds: {times}; {sum(summary['seconds'].values()):.0f} in all"]
  return "\n".join(lines)


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
