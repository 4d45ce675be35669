"""What the page, the terminal and the table of the evidence say about the quality of a search."""

import html
import json
import re

import numpy as np
import pytest

from metamix_jax.errors import UserError
from metamix_jax.method.assignments import draw_assignments
from metamix_jax.method.bops import complete_bits, gbops
from metamix_jax.records.search_quality import (
    FILE,
    AssignmentScore,
    Comparison,
    SearchQuality,
    TargetQuality,
    read_search_quality,
    verdict_of_interval,
)
from metamix_jax.reporting import page, saved_run, search_quality, tables
from tests.helpers.files import ROOT, load_module
from tests.helpers.saved_runs import small_config, write_run


def quality_of(layers, bits, loss, target=0.025):
  """A selection with this loss beside 20 random assignments whose losses are 0.01, 0.02, ... 0.20."""
  rng = np.random.default_rng(0)

  def score(of_bits, of_loss):
    return AssignmentScore(of_bits, gbops(layers, complete_bits(layers, of_bits)), of_loss, 90.0)

  random = [
      score(drawn, 0.01 * (number + 1))
      for number, drawn in enumerate(draw_assignments(layers, 0.97 * target, target, 20, rng))]
  other = score(random[3].bits, 0.055)
  of_target = TargetQuality(
      target, score(bits, loss + 0.001), (Comparison("sensitivity", other, loss - 0.054, (-0.04, 0.03), other),),
      score(bits, loss), tuple(random))
  return SearchQuality((of_target,), {4: score(dict.fromkeys(bits, 4), 0.03)}, 450, 150, {"num_random": 20},
                       {"random": 12.0, "uniform": 1.0})


@pytest.fixture
def run(tmp_path):
  layers, selected = write_run(tmp_path, *small_config())
  return tmp_path, layers, selected[0]


def write(run, loss):
  folder, layers, bits = run
  (folder / FILE).write_text(json.dumps(quality_of(layers, bits, loss).to_json()))
  return saved_run.read(folder)


@pytest.mark.parametrize("loss, share, verdict", [
    (0.005, 100, "beats 100 % of 20 random assignments of the same cost"),
    (0.015, 95, "beats 95 % of 20 random assignments of the same cost"),
    (0.025, 90, "no better than chance: beats 90 % of 20 random assignments of the same cost"),
    (0.205, 0, "no better than chance: beats 0 % of 20 random assignments of the same cost")])
def test_a_selection_that_one_random_assignment_in_twenty_beats_is_no_better_than_chance(run, loss, share, verdict):
  target, = write(run, loss).search_quality.targets
  assert target.percent_beaten == share and target.verdict == verdict


def test_the_terminal_says_it_in_words(run):
  folder, _, _ = run
  assert (f"How good the search is was not measured: scripts/search_quality.py {folder}"
          in tables.format_table(saved_run.read(folder)))
  measured = write(run, 0.105)
  sentence = "the selection is no better than chance: beats 50 % of 20 random assignments of the same cost"
  assert f"Search for 0.025 GBOPs: {sentence}" in tables.format_table(measured)
  text = tables.format_search_quality(measured)
  assert f"0.025 GBOPs: {sentence}" in text
  rows = [line.split() for line in text.splitlines()]
  # The selection on 450 images, and beside random assignments on 150; best, and median.
  assert ["0.1060", "90.00"] == next(row for row in rows if row[:2] == ["0.025", "selected"])[-2:]
  assert ["0.1050", "90.00"] == next(row for row in rows if "beside" in row and "0.025" in row)[-2:]
  assert ["0.0100", "90.00"] == next(row for row in rows if row[1:3] == ["best", "random"])[-2:]
  assert ["0.1100", "90.00"] == next(row for row in rows if row[1:3] == ["median", "random"])[-2:]
  assert "+0.0510 (-0.0400 to +0.0300)" in text and "Seconds: random 12, uniform 1; 13 in all" in text


def test_pointing_at_a_dot_of_the_page_shows_its_bits_cost_and_accuracy(run):
  folder, layers, bits = run
  assert "Not measured." in page.write(folder).read_text() and not (folder / "report" / "search_quality.png").exists()
  write(run, 0.015)
  text = page.write(folder).read_text()
  assert (folder / "report" / "search_quality.png").exists()
  drawing, = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
  assert not re.search(r"https?://|<script|<link|url\((?!#)", text)
  tips = [html.unescape(tip) for tip in re.findall(r"<title>(.*?)</title>", drawing, re.DOTALL)]
  assert len(tips) == 20 + 1 + 1
  selected, = (tip for tip in tips if tip.startswith("selected"))
  first, counts, *of_layers = selected.splitlines()
  assert first == f"selected: {gbops(layers, complete_bits(layers, bits)):.6g} GBOPs, loss 0.0150, top-1 90.00 %"
  values = list(bits.values())
  assert counts == ", ".join(f"{values.count(width)} layers at {width} bits" for width in (3, 4, 8))
  assert of_layers == [f"{name} {value}" for name, value in bits.items()]
  # Each tip belongs to the dot that is drawn after it.
  for tip in re.findall(r'<g id="random-0.025-(\d+)"><title>random: [\d.]+ GBOPs, loss ([\d.]+)', drawing):
    assert float(tip[1]) == pytest.approx(0.01 * (int(tip[0]) + 1), abs=1e-9)
  assert "<td>median random</td>" in text


def test_a_measurement_of_an_earlier_selection_is_not_that_of_this_one(run):
  """The bit selection of the folder is made again after the measurement."""
  folder, _, bits = run
  measured = write(run, 0.015)
  assert measured.search_quality is not None and not measured.search_quality_is_outdated
  (folder / "report" / "search_quality.png").touch()
  path = folder / "checkpoints" / "bit_selection.json"
  selection = json.loads(path.read_text())
  path.write_text(json.dumps(selection | {"targets": [selection["targets"][0] | {"target_gbops": 0.0251}]}))
  assert saved_run.read(folder).search_quality is None
  path.unlink()
  assert saved_run.read(folder).search_quality is None
  selection["targets"][0]["bits"]["head"] = 3 if bits["head"] != 3 else 4
  path.write_text(json.dumps(selection))
  again = saved_run.read(folder)
  assert again.search_quality is None and again.search_quality_is_outdated
  text = page.write(folder).read_text()
  assert (f"<p>report/search_quality.json is of an earlier selection. scripts/search_quality.py {folder} compares the "
          "selection with random and other assignments of the same cost.</p>") in text
  assert "median random" not in text and "Not measured." not in text
  assert not (folder / "report" / "search_quality.png").exists()
  assert (f"report/search_quality.json is of an earlier selection; to measure it again: scripts/search_quality.py "
          f"{folder}") in tables.format_table(again).splitlines()
  with pytest.raises(ValueError, match="was not measured"):
    tables.format_search_quality(again)


def test_the_drawing_needs_a_measurement(run):
  folder, _, _ = run
  assert search_quality.search_quality(saved_run.read(folder)) is None
  with pytest.raises(ValueError, match="was not measured"):
    search_quality.interactive_figure(saved_run.read(folder))


def test_what_is_written_is_what_is_read_and_damage_is_named(run):
  folder, layers, bits = run
  write(run, 0.015)
  assert read_search_quality(folder, layers) == quality_of(layers, bits, 0.015)
  whole = json.loads((folder / FILE).read_text())
  first = whole["targets"][0]
  for damaged in (
      [], {}, whole | {"targets": [first | {"random": []}]}, whole | {"targets": [first | {"selected": {}}]},
      whole | {"targets": [first | {"selected": first["selected"] | {"bits": {"head": 5}}}]},
      whole | {"num_images": "many"}, whole | {"uniform": {"four": first["selected"]}}):
    (folder / FILE).write_text(json.dumps(damaged))
    with pytest.raises(UserError, match=r"search_quality\.json cannot be read"):
      saved_run.read(folder)


def test_the_table_of_the_evidence(run):
  evidence = load_module(ROOT / "scripts" / "evidence.py")
  entry = evidence.describe(write(run, 0.015))
  # Sensitivity stands for the local search, which the made-up measurement lacks.
  comparison, = entry["targets"][0]["comparisons"]
  entry["targets"][0]["comparisons"].append(comparison | {"name": "local search", "interval": [-0.04, -0.01]})
  row, = (line for line in evidence.table([entry]).splitlines() if line.startswith("| 0 |"))
  cost = gbops(run[1], complete_bits(run[1], run[2]))
  assert row == (
      f"| 0 | 0.025 | {cost:.4f} | 90.00 | 0.016 | -0.039, equal | -0.039, better | 0.015, 0.010, 0.105 | 95 % of 20 |")
  assert "0 of 1 selections beat at least 99 %" in evidence.table([entry])
  other = json.loads(json.dumps(entry))
  other["targets"][0]["bits"]["head"] = 11 - entry["targets"][0]["bits"]["head"]
  assert "for a target: 14 of 15 (0.025 GBOPs)." in evidence.table([entry, other])
  assert evidence.with_entry([entry], other) == [other]  # The same run, measured again.
  of_another_network = json.loads(json.dumps(entry))
  of_another_network["config"]["network.options"] = {"last_channels": 8}
  with pytest.raises(UserError, match="has a run on digits with seed 0 and the same bits and targets, but with"):
    evidence.with_entry([entry], of_another_network)
  of_another_network["config"]["seed"] = 1
  assert evidence.with_entry([entry], of_another_network) == [entry, of_another_network]
  assert [verdict_of_interval(*interval) for interval in ((-2, -1), (-1, 1), (1, 2), (0, 1))] == [
      "better", "equal", "worse", "equal"]


def test_the_page_of_the_evidence_has_the_table_of_its_file():
  evidence = load_module(ROOT / "scripts" / "evidence.py")
  entries = json.loads(evidence.RESULTS.read_text())["runs"]
  assert evidence.table(entries) in evidence.PAGE.read_text()
