"""The cost of a network layer by layer, as a table for a terminal."""

from collections.abc import Mapping, Sequence
import dataclasses

from metamix_jax.method.bops import (
    LayerCost,
    attainable_range,
    average_activation_bits,
    cost_name,
    cost_unit,
    gbops,
    layer_gbops,
    uniform_bits,
    uniform_widths,
)
from metamix_jax.method.costs import peak_activation_bytes, total_activation_bytes, weight_bytes
from metamix_jax.method.layer_bits import LayerBits, deciding_pattern


def format_costs(
    layers: Sequence[LayerCost], activation_bits: Mapping[str, int], layer_bits: LayerBits = ()
) -> str:
  """Returns the report of an assignment's cost as text: MACs, bits and share of each layer; the totals; the rule.

  Args:
    layers: every quantised layer.
    activation_bits: bits by layer name; and the bits of searched kernels by their name, else layer.weight_bits.
    layer_bits: the patterns of the config; the report shows what each of them caught.
  """
  total, unit, name = gbops(layers, activation_bits), cost_unit(layers), cost_name(layers)
  # Uniform bit-widths and the attainable range are those of `layers`, whatever was selected.
  selected = [
      dataclasses.replace(layer, weight_bits=activation_bits.get(layer.kernel_name, layer.weight_bits))
      for layer in layers]
  of_weights = weight_bytes(selected)
  width = max(len(layer.name) for layer in layers)
  lines = [f"{'layer':<{width}}  {'kind':<9}  {'MACs':>12}  weight bits  activation bits  share of {name}"]
  for layer in selected:
    share = layer_gbops(layer, activation_bits[layer.name]) / total if total else 0.0
    note = "" if layer.searched else "  not searched" if layer.quantized else "  full precision"
    lines.append(
        f"{layer.name:<{width}}  {layer.kind:<9}  {layer.macs:>12,}  {layer.weight_bits:>11}  "
        f"{activation_bits[layer.name]:>15}  {share:>{9 + len(name)}.2%}{note}")
  searched = [layer for layer in selected if layer.searched]
  fixed = " and ".join(
      f"{layer.name} ({layer.candidate_bits[0]}/{layer.weight_bits})" for layer in layers if not layer.searched)
  lines += _format_patterns(layers, layer_bits)
  lowest, highest = attainable_range(layers)
  lines += [
      "", f"{len(layers)} layers, {len(searched)} searched; {sum(layer.macs for layer in layers):,} MACs",
      f"This assignment            {total:12.6f} {unit}, "
      f"{average_activation_bits(layers, activation_bits):.3f} activation bits on average",
  ]
  for bits in uniform_widths(layers):
    lines.append(f"Searched layers all at {bits}   {gbops(layers, uniform_bits(layers, bits)):12.6f} {unit}")
  lines += [
      f"Attainable range           {lowest:12.6f} to {highest:.6f} {unit}",
      f"Activations read           {total_activation_bytes(layers, activation_bits):12.0f} bytes of one image, "
      f"{peak_activation_bytes(layers, activation_bits):.0f} of them by one layer at most",
      *([] if of_weights is None else [f"Weights                    {of_weights:12.0f} bytes"]),
      "",
      "Rule: BOPs = sum of MACs x weight bits x activation bits over every convolution and dense layer, one image."
      if layers[0].cost is None else f"Rule: {name} = sum over the layers of their values in {unit}, one image.",
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
