"""The report of a run from its files alone: what the figures and the page show, for every state a run can be in."""

import json
import re
import struct
import subprocess
import sys

from matplotlib.backends.backend_agg import FigureCanvasAgg
import numpy as np
import pytest

from metamix_jax.method.bops import gbops
from metamix_jax.reporting import curve, figures, saved_run
from metamix_jax.reporting import page as report_page
from tests.helpers.files import ROOT
from tests.helpers.saved_runs import large_config, small_config, write_run

# Candidate indices instead of bits.
OLD_SELECTION = (
    '{"seconds": 1, "best": null, "budgets": ['
    '{"target_gbops": 0.025, "candidates": {"head": 1}, "most_probable": {"head": 0}}]}')


@pytest.fixture(scope="module")
def large(tmp_path_factory):
  """A finished run: 62 searched layers, three targets."""
  folder = tmp_path_factory.mktemp("large")
  layers, selected = write_run(folder, *large_config(), records_per_epoch=4)
  return folder, layers, selected


@pytest.fixture
def small(tmp_path):
  """A finished run: 15 searched layers, one target."""
  layers, selected = write_run(tmp_path, *small_config())
  return tmp_path, layers, selected[0]


def written(folder):
  return sorted(path.name for path in (folder / "report").iterdir())


def test_page_of_a_finished_run_of_several_targets(large):
  folder, _, _ = large
  page = report_page.write(folder).read_text()
  figures = ["accuracy_against_cost", "activation_stability", *(f"bits_{target}" for target in ("3.1", "3.31", "4.5")),
             *(f"probabilities_{target}" for target in ("3.1", "3.31", "4.5")), "search_cost", "training"]
  assert written(folder) == sorted([*(f"{name}.png" for name in figures), "report.html", "summary.json"])
  assert page.count('<img src="data:image/png;base64,') == page.count("<img ") == len(figures)
  assert not re.search(r"https?://|<script|<link|url\(", page)
  assert "The run is finished. Seed 0." in page
  # Each target's row: target, cost, average bits, layers at each bit-width, accuracy at three moments.
  for result in saved_run.read(folder).target_results:
    assert result.gbops <= result.target_gbops
    row = f"<td>selected bits</td><td>{result.target_gbops:g}</td><td>{result.gbops:.6g}</td>"
    assert row in page
  assert "<td>71.70</td><td>73.60</td><td>73.30</td>" in page
  # MobileNetV3-Large at 4 bits: tests/golden/macs_224.json.
  assert "<td>all searched layers at 4 bits</td><td>–</td><td>3.78699</td>" in page
  assert page.count("<td>depthwise</td>") == 15


def test_layers_are_told_apart_at_62_of_them(large):
  """No two names overlap, and every line of text is in the picture."""
  run = saved_run.read(large[0])
  for figure in (figures.bits_per_layer(run.target_results[0]), figures.probabilities(run, 3.31),
                 figures.activation_stability(run)):
    FigureCanvasAgg(figure).draw()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert len(boxes) >= 62
    assert all(lower.y1 <= upper.y0 for upper, lower in zip(boxes, boxes[1:], strict=False))
    assert all(0 <= box.x0 and box.y0 >= 0 and box.y1 <= figure.bbox.y1 for box in boxes)


def test_bits_and_shares_of_the_cost(large):
  folder, layers, selected = large
  run = saved_run.read(folder)
  figure = figures.bits_per_layer(run.target_results[1])
  expected = [selected[1].get(layer.name, 8) for layer in layers]
  bits_axes, share_axes = figure.axes
  assert [bar.get_width() for bar in bits_axes.patches] == expected
  bits = {layer.name: width for layer, width in zip(layers, expected, strict=True)}
  shares = [100 * gbops([layer], bits) / gbops(layers, bits) for layer in layers]
  np.testing.assert_allclose([bar.get_width() for bar in share_axes.patches], shares, rtol=1e-12)
  assert sum(shares) == pytest.approx(100)
  hatches = {bar.get_hatch() for bar, layer in zip(bits_axes.patches, layers, strict=True) if layer.kind == "depthwise"}
  assert hatches == {"////"} and {layer.kind for layer in layers} == {"conv", "depthwise", "dense"}


def test_figures_draw_what_was_recorded(small):
  folder, layers, selected = small
  run = saved_run.read(folder)
  lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
  search = [line for line in lines if "search/0.025/gbops" in line]

  heat_maps = figures.probabilities(run, 0.025).axes[:3]
  for axes, bits in zip(heat_maps, (3, 4, 8), strict=True):
    drawn = np.array(axes.collections[0].get_array()).reshape(15, len(search))
    assert drawn[14, -1] == search[-1][f"search/0.025/probability/head/{bits}"]
    marked = axes.lines[0].get_ydata() if axes.lines else []
    names = [layer.name for layer in layers if layer.searched]
    assert list(marked) == [row for row, name in enumerate(names) if selected[name] == bits]

  cost_axes, entropy_axes = figures.search_cost(run).axes
  np.testing.assert_array_equal(cost_axes.lines[0].get_ydata(), [line["search/0.025/gbops"] for line in search])
  entropies = [line["search/0.025/alpha_entropy"] for line in search]
  np.testing.assert_array_equal(entropy_axes.lines[0].get_ydata(), entropies)
  assert cost_axes.lines[1].get_ydata()[0] == 0.025

  axes = curve.accuracy_against_cost(run).axes[0]
  drawn = {line.get_label(): line.get_xydata() for line in axes.lines}
  [result] = run.target_results
  np.testing.assert_array_equal(drawn["final: after stage B"], [[result.gbops, 72.5]])
  assert drawn["uniform bits, meta-state"][1].tolist() == [pytest.approx(0.022847488), 74.5 - 40 / 8]

  axes = figures.training(run).axes  # Four losses, then four accuracies.
  losses = [line["loss"] for line in lines if line["phase"] == "stage_b" and "loss" in line]
  np.testing.assert_array_equal(axes[3].lines[0].get_ydata(), losses)
  assert len(axes[1].lines) == 3  # One for each bit-width.

  before, after = figures.activation_stability(run).axes[0].lines
  stability = json.loads((folder / "checkpoints" / "bit_selection.json").read_text())["activation_stability"]
  assert before.get_xdata().tolist() == list(stability["before"].values())
  assert after.get_xdata().tolist() == list(stability["after"].values())


def test_a_run_that_is_still_searching(tmp_path):
  write_run(tmp_path, *small_config(), phases=("pretraining",), begun="bit_selection")
  with (tmp_path / "metrics.jsonl").open("a") as file:
    file.write('{"phase": "bit_sel')  # Being written.
  page = report_page.write(tmp_path).read_text()
  assert written(tmp_path) == ["probabilities.png", "report.html", "search_cost.png", "training.png"]
  assert "The run is not finished: bit_selection is under way, epoch 7.50 of 10." in page
  assert "No bits are selected yet. Target: 0.025 GBOPs." in page
  assert "<td>stage_b</td><td>has not begun</td>" in page
  assert "75.20</td>" in page  # Full precision is known.


def test_a_run_that_has_just_begun(tmp_path):
  write_run(tmp_path, *small_config(), phases=())
  (tmp_path / "metrics.jsonl").unlink()
  page = report_page.write(tmp_path).read_text()
  assert written(tmp_path) == ["report.html"]
  assert "The run is not finished: pretraining has not begun." in page and "There is nothing to draw yet." in page


def test_the_report_is_made_again(small):
  """After a change of the files, without anything else; figures of an earlier state go."""
  folder, _, _ = small
  report_page.write(folder)
  width, _ = struct.unpack(">II", (folder / "report" / "bits.png").read_bytes()[16:24])
  assert width == 1100
  for name in ("checkpoints/bit_selection.json", "checkpoints/meta_evaluation.json", "report/summary.json"):
    (folder / name).unlink()
  assert "No bits are selected yet" in report_page.write(folder).read_text()
  assert not (folder / "report" / "activation_stability.png").exists()


@pytest.mark.parametrize("name, content, sentence", [
    ("config.json", None, "is no folder of a run: there is no config.json in it."),
    ("config.json", "{", r"config.json cannot be read \(Expecting property name"),
    ("config.json", "[1]", r"config.json cannot be read \(it holds no JSON object\)"),
    ("config.json", '{"seed": 0}', r"config.json cannot be read \('arch.target_gbops' is missing\)"),
    ("network.json", None, "network.json is not there; the folder is of no run, or of one that has not begun."),
    ("network.json", '{"layers": [{"name": "stem"}]}', r"network.json cannot be read \('macs' is missing\)"),
    ("network.json", '{"layers": []}', r"network.json cannot be read \(none of its layers is searched\)"),
    ("metrics.jsonl", '{"phase": "pretraining"}\n', r"cannot be read \(line 1: it is not a record of a step\)"),
    ("metrics.jsonl", '{"phase": "other", "step": 1, "epoch": 1}\n', r"\(line 1: it is not a record of a step\)"),
    ("checkpoints/stage_a.json", '{"stage_a_top1": 70}', r"stage_a.json cannot be read \('seconds' is missing\)"),
    ("checkpoints/pretraining.json", '{"seconds": 1, "best": null}',
     r"pretraining.json cannot be read \('full_precision_top1' is missing\)"),
    ("checkpoints/pretraining.json", '{"seconds": "12", "full_precision_top1": 70}',
     r"pretraining.json cannot be read \('seconds' is '12'; it must be a number\)"),
    ("checkpoints/pretraining.json", '{"seconds": 12, "full_precision_top1": "70"}',
     r"pretraining.json cannot be read \('full_precision_top1' is '70'; it must be a number\)"),
    ("checkpoints/pretraining.json", '{"seconds": NaN, "full_precision_top1": 70}',
     r"pretraining.json cannot be read \('seconds' is nan; it must be a number\)"),
    ("checkpoints/stage_a.json", '{"seconds": 1, "stage_a_top1": null}',
     r"stage_a.json cannot be read \('stage_a_top1' is None; it must be a number\)"),
    ("checkpoints/stage_b.json", '{"seconds": 1, "stage_a_top1": 70}',
     r"stage_b.json cannot be read \('final_top1' is missing\)"),
    ("checkpoints/bit_selection.json", '{"seconds": null, "targets": []}',
     r"bit_selection.json cannot be read \('seconds' is None; it must be a number\)"),
    ("checkpoints/bit_selection.json", '{"seconds": 1, "targets": [{"target_gbops": 1, "bits": {}}]}',
     r"bit_selection.json cannot be read \(target 1, bits: layer 'block_00/depthwise' is missing"),
    ("checkpoints/bit_selection.json", '{"seconds": 1, "targets": [{"target_gbops": "1"}]}',
     r"bit_selection.json cannot be read \('target_gbops' is '1'; it must be a number\)"),
    ("checkpoints/bit_selection.json", OLD_SELECTION,
     r"bit_selection.json cannot be read \('targets' is missing\); it or .*network.json or .*config.json is damaged"),
    ("checkpoints/meta_evaluation.json", '{"seconds": 1, "uniform": [{"bits": 5}]}',
     r"meta_evaluation.json cannot be read \('bits' is 5; allowed are \(3, 4, 8\)\)"),
    ("report/summary.json", "", "summary.json cannot be read"),
    ("report/summary.json", '{"versions": []}', r"summary.json cannot be read \('versions' is no JSON object\)"),
])
def test_damaged_and_foreign_folders(small, name, content, sentence):
  path = small[0] / name
  if content is None:
    path.unlink()
  else:
    path.write_text(content)
  with pytest.raises(ValueError, match=sentence) as caught:
    report_page.write(small[0])
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name, old, new, sentence", [
    ("config.json", '"arch.target_gbops": 0.025', '"arch.target_gbops": "0.025"',
     r"\('arch.target_gbops' is '0.025'; it must be a number\)"),
    ("config.json", '"stage_a.epochs": ', '"stage_a.epochs": "many", "stage_a.other": ',
     r"\('stage_a.epochs' is 'many'; it must be a number\)"),
    ("network.json", '"macs": ', '"macs": null, "others": ', r"\('macs' is None; it must be a number\)"),
    ("network.json", '"kind": "conv"', '"kind": "sparse"', r"\(layer 'stem' is of the kind 'sparse'; allowed are"),
    ("network.json", '"candidate_bits": ', '"candidate_bits": [], "others": ', "layer 'stem' has no candidate bits"),
])
def test_a_value_of_another_type_is_a_sentence(small, name, old, new, sentence):
  path = small[0] / name
  path.write_text(path.read_text().replace(old, new, 1))
  with pytest.raises(ValueError, match=sentence) as caught:
    report_page.write(small[0])
  assert "\n" not in str(caught.value)


def test_a_config_without_the_field_of_the_costs(small):
  """The page names config.arch.cost where layers have costs of their own; older runs have neither."""
  network = json.loads((small[0] / "network.json").read_text())
  for layer in network["layers"]:
    layer["cost"] = {"name": "latency", "unit": "ms", "values": [1.0] * len(layer["candidate_bits"])}
  (small[0] / "network.json").write_text(json.dumps(network))
  config = json.loads((small[0] / "config.json").read_text())
  del config["arch.cost"]
  (small[0] / "config.json").write_text(json.dumps(config))
  with pytest.raises(ValueError, match=r"config.json cannot be read \('arch.cost' is missing\); it or .*network.json"):
    report_page.write(small[0])


def test_the_command(tmp_path):
  result = subprocess.run(
      [sys.executable, ROOT / "scripts" / "report.py", tmp_path], capture_output=True, text=True, check=False)
  assert result.returncode == 2
  assert result.stderr == f"report: {tmp_path} is no folder of a run: there is no config.json in it.\n"
