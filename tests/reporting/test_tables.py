"""What results, the summary and its table say about a target."""

import dataclasses
import json
import pathlib

import ml_collections
import pytest

from metamix_jax.method.bops import CostTable, LayerCost
from metamix_jax.records.results import (
    ActivationStability,
    BitSelection,
    MetaEvaluation,
    TargetResult,
    UniformResult,
)
from metamix_jax.records.summary import summarize
from metamix_jax.reporting import costs, tables
from metamix_jax.reporting.saved_run import SavedRun

LAYERS = (
    LayerCost("first", 10**9, 100, (8,), 8, "conv", "unsigned"),
    LayerCost("a", 2 * 10**9, 50, (3, 4, 8), 4, "conv", "unsigned"),
    LayerCost("b", 3 * 10**9, 30, (3, 4, 8), 4, "depthwise", "unsigned"),
)
CONFIG = ml_collections.ConfigDict({"seed": 0, "arch": {"target_tolerance": 0.03}})
UNIFORM = (UniformResult(3, LAYERS, 80.0, 70.0),)


def result_at(target, a=4, **top1):
  # 64 + 8 * 4 + 12 * 8 = 192 GBOPs with a at 4 bits; argmax had a at 8 bits.
  return TargetResult(target, LAYERS, 0.03, {"a": a, "b": 8}, {"a": 8, "b": 8}, **(
      {"meta_state_top1": 85.0, "stage_a_top1": 88.0, "final_top1": 87.5} | top1))


def summary_at(*results):
  return summarize(CONFIG, 90.0, BitSelection(results), UNIFORM, {"stage_a": 1.0}, 0,
                   {"stage_a": {"step": 3, "top1": 89.0}, "bit_selection": None}, {})


def table_of(*results):
  """The table of a run whose files hold these results."""
  targets = [result.target_gbops for result in results]
  phases = {
      "pretraining": {"full_precision_top1": 90.0}, "bit_selection": BitSelection(results).to_json(),
      "meta_evaluation": MetaEvaluation(
          UNIFORM, {result.target_gbops: result.meta_state_top1 for result in results}).to_json()}
  for result in results:
    for stage, name in (("stage_a", "stage_a_top1"), ("stage_b", "final_top1")):
      if getattr(result, name) is not None:
        phases[stage if len(targets) == 1 else f"{stage}_{result.target_gbops:g}"] = {name: getattr(result, name)}
  config = {"arch.target_gbops": targets, "arch.target_tolerance": 0.03}
  return tables.format_table(SavedRun(
      pathlib.Path("run"), config, LAYERS, (), json.loads(json.dumps(phases)), summary_at(*results)))


@pytest.mark.parametrize("target, met", [(192.0, True), (191.9, False), (197.9, True), (198.0, False)])
def test_a_miss_of_the_target_is_reported(target, met):
  result = result_at(target)
  assert result.gbops == pytest.approx(192, rel=1e-12)
  assert result.target_met is met
  assert ("TARGET MISSED: the selection is over the target, or more than 3 % below it" in table_of(result)) is not met


def test_summary_says_what_was_selected_and_is_strict_json():
  result = result_at(192.0)
  assert result.changed == {"a": (8, 4)} and result.all_bits == {"first": 8, "a": 4, "b": 8}
  summary = json.loads(json.dumps(summary_at(result), allow_nan=False))
  assert summary["targets"] == [{
      "target_gbops": 192.0, "gbops": pytest.approx(192, rel=1e-12),
      "most_probable_gbops": pytest.approx(224, rel=1e-12), "target_met": True,
      "average_activation_bits": (8 * 100 + 4 * 50 + 8 * 30) / 180, "meta_state_top1": 85.0, "stage_a_top1": 88.0,
      "final_top1": 87.5, "bits": {"a": 4, "b": 8}, "most_probable_bits": {"a": 8, "b": 8}}]
  assert summary["uniform"] == [
      {"bits": 3, "gbops": pytest.approx(124, rel=1e-12), "top1": 80.0, "shared_top1": 70.0}]
  assert summary["best"] == {"stage_a": {"step": 3, "top1": 89.0}}
  assert "argmax alpha cost 224.000000; settled at the target by a 8 -> 4" in table_of(result)


def test_results_are_the_same_after_json():
  result = result_at(192.0, stage_a_top1=None, final_top1=None)
  assert TargetResult.from_json(json.loads(json.dumps(result.to_json())), LAYERS, 0.03) == result
  selection = BitSelection((result_at(185.0), result), ActivationStability({"norm": 0.5}, {"norm": 0.25}))
  restored = BitSelection.from_json(json.loads(json.dumps(selection.to_json())), LAYERS, 0.03)
  assert restored.activation_stability == selection.activation_stability
  assert [target.bits for target in restored.targets] == [{"a": 4, "b": 8}] * 2
  assert restored.targets[0].final_top1 is None  # Not a result of the bit selection.
  assert selection.to_json()["targets"][0] == {
      "target_gbops": 185.0, "bits": {"a": 4, "b": 8}, "most_probable_bits": {"a": 8, "b": 8}}
  evaluation = MetaEvaluation(UNIFORM, {0.025: 99.0})
  assert MetaEvaluation.from_json(json.loads(json.dumps(evaluation.to_json())), LAYERS, [0.025]) == evaluation


@pytest.mark.parametrize("change, sentence", [
    ({"target_gbops": None}, "'target_gbops' is None; it must be a number"),
    ({"bits": [8, 8]}, r"target 192, bits: 'bits' is \[8, 8\]; it must be a JSON object"),
    ({"bits": {"a": 4}}, "target 192, bits: layer 'b' is missing; it must name the 2 searched layers"),
    ({"bits": {"a": 4, "b": 8, "c": 8}}, "target 192, bits: layer 'c' is unknown"),
    ({"bits": {"a": 4.0, "b": 8}}, r"bits: it gives layer 'a' 4.0 bits; allowed are \(3, 4, 8\)"),
    ({"most_probable_bits": {"a": 5, "b": 8}}, "most_probable_bits: it gives layer 'a' 5 bits"),
    ({"final_top1": "87"}, "'final_top1' is '87'; it must be a number"),
])
def test_a_wrong_value_is_named(change, sentence):
  with pytest.raises(ValueError, match=sentence):
    TargetResult.from_json(result_at(192.0).to_json() | change, LAYERS, 0.03)


def test_several_targets_print_the_curve_in_the_order_of_cost():
  lines = table_of(result_at(185.0, 3, stage_a_top1=None, final_top1=None), result_at(210.0)).splitlines()
  rows = [line.split() for line in lines[3:7]]
  assert rows == [
      ["all", "at", "3", "bits", "124.000000", "80.00"],
      ["185", "184.000000", "6.611", "85.00"],  # (8 * 100 + 3 * 50 + 8 * 30) / 180 bits.
      ["210", "192.000000", "6.889", "85.00", "88.00", "87.50", "TARGET", "MISSED"],  # 8.6 % below.
      ["full", "precision", "90.00"]]
  assert len({line.index("85.00") for line in lines[4:6]}) == 1 and lines[-1] == "Seconds: stage_a 1; 1 in all"


def test_costs_of_each_layer():
  lines = costs.format_costs(LAYERS, {"first": 8, "a": 4, "b": 8}).splitlines()
  assert lines[1].split() == ["first", "conv", "1,000,000,000", "8", "8", "33.33%", "not", "searched"]
  assert lines[3].split() == ["b", "depthwise", "3,000,000,000", "4", "8", "50.00%"]
  assert "Attainable range             124.000000 to 224.000000 GBOPs" in lines


def test_costs_of_selected_kernels():
  """64 + 2 * 4 * 8 + 3 * 8 * 2 = 176 GBOPs; uniform bit-widths have the weights at 4 bits."""
  layers = [
      dataclasses.replace(
          layer, weight_elements=elements, candidate_weight_bits=(2, 4, 8) if layer.searched else ())
      for layer, elements in zip(LAYERS, (100, 3000, 2000), strict=True)]
  bits = {"first": 8, "a": 4, "b": 8, "a/kernel": 8, "b/kernel": 2}
  lines = costs.format_costs(layers, bits).splitlines()
  assert lines[1].split()[3:] == ["8", "8", "36.36%", "not", "searched"]
  assert lines[2].split()[3:] == ["8", "4", "36.36%"]
  assert lines[3].split()[3:] == ["2", "8", "27.27%"]
  assert "This assignment              176.000000 GBOPs, 6.889 activation bits on average" in lines
  assert "Searched layers all at 3     124.000000 GBOPs" in lines
  assert "Attainable range              94.000000 to 384.000000 GBOPs" in lines  # At 3 and 2 bits, at 8 and 8.
  assert "Weights                            3600 bytes" in lines  # (100 * 8 + 3000 * 8 + 2000 * 2) / 8.
  assert "Not searched, first (8/8) (activation/weight bits); weights elsewhere 2, 8 bits." in lines


def test_costs_that_are_all_0_have_no_shares():
  layers = [dataclasses.replace(layer, cost=CostTable("latency", "ms", (0.0,) * len(layer.candidate_bits)))
            for layer in LAYERS]
  lines = costs.format_costs(layers, {"first": 8, "a": 4, "b": 8}).splitlines()
  assert [line.split()[5] for line in lines[1:4]] == ["0.00%"] * 3


def test_the_table_of_a_run_with_kernels_says_so():
  layers = tuple(dataclasses.replace(layer, candidate_weight_bits=(2, 4) if layer.searched else ()) for layer in LAYERS)
  bits = {"a": 4, "b": 8, "a/kernel": 2, "b/kernel": 4}
  phases = {
      "pretraining": {"full_precision_top1": 90.0},
      "bit_selection": BitSelection((TargetResult(192.0, layers, 0.03, bits, bits),)).to_json(),
      "meta_evaluation": MetaEvaluation((), {192.0: 85.0}).to_json()}
  config = {"arch.target_gbops": 192.0, "arch.target_tolerance": 0.03}
  summary = {"skipped_records": 0, "seconds": {"pretraining": 1.0}}
  lines = tables.format_table(SavedRun(pathlib.Path("run"), config, layers, (), phases, summary)).splitlines()
  assert lines[1] == "Bits selected for each layer's input activations and kernel"
  assert [line.split() for line in lines[2:6]] == [["a", "4"], ["b", "8"], ["a/kernel", "2"], ["b/kernel", "4"]]
