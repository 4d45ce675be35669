"""What the summary and its table say about the target."""

import json

import ml_collections
import pytest

from metamix_jax.method.bops import LayerCost
from metamix_jax.records.summary import summarize
from metamix_jax.reporting import tables

LAYERS = (
    LayerCost("first", 10**9, 100, (8,), 8, "conv", "unsigned"),
    LayerCost("a", 2 * 10**9, 50, (3, 4, 8), 4, "conv", "unsigned"),
    LayerCost("b", 3 * 10**9, 30, (3, 4, 8), 4, "depthwise", "unsigned"),
)
EVALUATED = {
    "full_precision_top1": 90.0, "meta_state_top1": {"3": {"reestimated": 80.0, "shared": 70.0}}}


def summary_at(*budgets):
  config = ml_collections.ConfigDict({"seed": 0, "arch": {"target_tolerance": 0.03}})
  return summarize(config, LAYERS, budgets, EVALUATED, {"stage_a": 1.0}, 0,
                          {"stage_a": {"step": 3, "top1": 89.0}, "bit_selection": None})


def budget(target, a=1, **top1):
  # 64 + 8 * 4 + 12 * 8 = 192 GBOPs with a at 4 bits; argmax had a at 8 bits.
  return {"target_gbops": target, "candidates": {"a": a, "b": 2}, "most_probable": {"a": 2, "b": 2},
          "selected_top1": 85.0, "stage_a_top1": 88.0, "final_top1": 87.5} | top1


@pytest.mark.parametrize("target, met", [(192.0, True), (191.9, False), (197.9, True), (198.0, False)])
def test_a_miss_of_the_target_is_reported(target, met):
  summary = summary_at(budget(target))
  assert summary["selected_gbops"] == pytest.approx(192, rel=1e-12)
  assert summary["target_met"] is met
  assert ("TARGET MISSED: the selection is over the target, or more than 3 % below it" in tables.format_table(
      summary)) is not met


def test_summary_says_what_was_settled_and_is_strict_json():
  summary = summary_at(budget(192.0))
  assert summary["selected"] == {"a": 4, "b": 8}
  assert summary["settled"] == {"a": [8, 4]}
  assert summary["pareto"]["budgets"] == [{name: summary[name] for name in summary["pareto"]["budgets"][0]}]
  assert summary["best"] == {"stage_a": {"step": 3, "top1": 89.0}}
  assert summary["argmax_gbops"] == pytest.approx(224, rel=1e-12)
  assert summary["average_activation_bits"] == (8 * 100 + 4 * 50 + 8 * 30) / 180
  assert json.loads(json.dumps(summary, allow_nan=False))["final_top1"] == 87.5


def test_several_budgets_print_the_curve_in_the_order_of_cost():
  untrained = {"stage_a_top1": None, "final_top1": None}
  summary = summary_at(budget(185.0, 0, **untrained), budget(210.0))
  assert "selected" not in summary and "final_top1" not in summary
  assert [point["selected_gbops"] for point in summary["pareto"]["budgets"]] == pytest.approx([184, 192], rel=1e-12)
  assert summary["pareto"]["uniform"] == [{"bits": 3, "gbops": pytest.approx(124, rel=1e-12), "top1": 80.0}]
  lines = tables.format_table(summary).splitlines()
  rows = [line.split() for line in lines[3:7]]
  assert rows == [
      ["all", "at", "3", "bits", "124.000000", "80.00"],
      ["185", "184.000000", "6.611", "85.00"],  # (8 * 100 + 3 * 50 + 8 * 30) / 180 bits.
      ["210", "192.000000", "6.889", "85.00", "88.00", "87.50", "TARGET", "MISSED"],  # 8.6 % below.
      ["full", "precision", "90.00"]]
  assert len({line.index("85.00") for line in lines[4:6]}) == 1 and lines[-1] == "Seconds: stage_a 1; 1 in all"


def test_costs_of_each_layer():
  lines = tables.format_costs(LAYERS, {"first": 8, "a": 4, "b": 8}).splitlines()
  assert lines[1].split() == ["first", "conv", "1,000,000,000", "8", "8", "33.33%", "not", "searched"]
  assert lines[3].split() == ["b", "depthwise", "3,000,000,000", "4", "8", "50.00%"]
  assert "Attainable range             124.000000 to 224.000000 GBOPs" in lines
