"""Figures and page of a run whose kernels are searched too, and figures of costs of one's own."""

import dataclasses
import json
import re

from matplotlib.backends.backend_agg import FigureCanvasAgg
import numpy as np
import pytest

from metamix_jax.method.bops import CostTable, LayerCost
from metamix_jax.records.results import TargetResult
from metamix_jax.reporting import figures, saved_run
from metamix_jax.reporting import page as report_page
from tests.helpers.saved_runs import small_config, write_run

KERNELS = (
    LayerCost("first", 10**9, 100, (8,), 8, "conv", "unsigned"),
    LayerCost("a", 2 * 10**9, 50, (3, 4, 8), 4, "conv", "unsigned", candidate_weight_bits=(2, 4, 8)),
    LayerCost("b", 3 * 10**9, 30, (3, 4, 8), 4, "depthwise", "unsigned", candidate_weight_bits=(2, 4, 8)),
)


def test_shares_of_the_cost_with_searched_kernels():
  """64 + 2 * 4 * 8 + 3 * 8 * 2 = 176 GBOPs."""
  bits = {"a": 4, "b": 8, "a/kernel": 8, "b/kernel": 2}
  figure = figures.bits_per_layer(TargetResult(180.0, KERNELS, 0.03, bits, bits | {"b/kernel": 4}))
  bits_axes, share_axes = figure.axes
  shares = [bar.get_width() for bar in share_axes.patches]
  assert shares == pytest.approx([6400 / 176, 6400 / 176, 4800 / 176]) and sum(shares) == pytest.approx(100)
  assert [bar.get_width() for bar in bits_axes.patches] == [8, 4, 8]
  assert [text.get_text() for text in bits_axes.texts] == ["8/8", "4/8", "8/2  (most probable: 8/4)"]
  assert bits_axes.get_xlabel().endswith("; beside the bars: activations/weights")


def test_costs_that_are_all_0_are_drawn():
  layers = [dataclasses.replace(layer, cost=CostTable("latency", "ms", (0.0,) * len(layer.candidate_bits)),
                                candidate_weight_bits=()) for layer in KERNELS]
  bits = {"a": 4, "b": 8}
  figure = figures.bits_per_layer(TargetResult(1.0, tuple(layers), 0.03, bits, bits))
  FigureCanvasAgg(figure).draw()
  assert [bar.get_width() for bar in figure.axes[1].patches] == [0, 0, 0]
  assert figure.axes[1].get_xlim() == (0, 1)
  assert [text.get_text() for text in figure.axes[0].texts] == ["8", "4", "8"]


@pytest.fixture
def run_with_kernels(tmp_path):
  """A finished run; the kernel of each searched layer is at 2 bits, that of the last one at 8."""
  layers, (selected,) = write_run(tmp_path, *small_config())
  path = tmp_path / "network.json"
  network = json.loads(path.read_text())
  for layer in network["layers"]:
    layer["candidate_weight_bits"] = [2, 4, 8] if layer["searched"] else []
  path.write_text(json.dumps(network))
  kernels = {f"{name}/kernel": 2 for name in selected} | {"head/kernel": 8}
  path = tmp_path / "checkpoints" / "bit_selection.json"
  selection = json.loads(path.read_text())
  for key in ("bits", "most_probable_bits"):
    selection["targets"][0][key] |= kernels
  path.write_text(json.dumps(selection))
  path = tmp_path / "metrics.jsonl"
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  for line in lines:
    if "search/0.025/gbops" in line:
      line |= {f"search/0.025/probability/{name}/{bits}": value
               for name in kernels for bits, value in ((2, 0.5), (4, 0.125), (8, 0.375))}
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))
  return tmp_path, layers, selected


def test_the_page_of_a_run_with_searched_kernels(run_with_kernels):
  """Counts are of layers."""
  folder, layers, selected = run_with_kernels
  page = report_page.write(folder).read_text()
  counts = [list(selected.values()).count(width) for width in (3, 4, 8)]
  assert sum(counts) == 15
  row, = re.findall("<tr><td>selected bits</td>.*?</tr>", page)
  assert f"<td>{' / '.join(map(str, counts))}</td>" in row
  assert "<th>bits at 0.025 GBOPs</th><th>weight bits at 0.025 GBOPs</th>" in page
  macs = {layer.name: f"{layer.macs:,}" for layer in layers}
  assert (f"<td>head</td><td>conv</td><td>{macs['head']}</td><td>2 / 4 / 8</td><td>{selected['head']}</td>"
          "<td>8</td>") in page
  name = "block_00/project"
  assert f"<td>{macs[name]}</td><td>2 / 4 / 8</td><td>{selected[name]}</td><td>2</td>" in page
  assert f"<td>stem (not searched)</td><td>conv</td><td>{macs['stem']}</td><td>8</td><td>8</td><td>8</td>" in page


def test_probabilities_of_kernels_have_rows_behind_those_of_layers(run_with_kernels):
  """Four bit-widths in all: no input may have 2 bits, no kernel 3."""
  folder, _, selected = run_with_kernels
  axes = figures.probabilities(saved_run.read(folder), 0.025).axes
  assert [panel.get_title() for panel in axes[:4]] == ["2 bits", "3 bits", "4 bits", "8 bits"]
  names = [*selected, *(f"{name}/kernel" for name in selected)]
  assert [label.get_text() for label in axes[0].get_yticklabels()] == names
  two, three, _, eight = (np.ma.filled(panel.collections[0].get_array(), np.nan).reshape(30, -1) for panel in axes[:4])
  assert np.isnan(two[:15]).all() and (two[15:] == 0.5).all() and (eight[15:] == 0.375).all()
  assert np.isnan(three[15:]).all() and not np.isnan(three[:15]).any()
  assert list(axes[0].lines[0].get_ydata()) == [row for row in range(15, 30) if names[row] != "head/kernel"]
