"""The ledger's files and page, from invented results; and two claims that are run at a toy size."""

import copy
import json
import re
import subprocess
import sys

import pytest

from metamix_jax.errors import UserError
from metamix_jax.records.interruption import Interrupted, StopRequest
from tests.helpers.claims import ledger, page, results
from tests.helpers.configs import tiny_config
from tests.helpers.files import ROOT
from tests.helpers.interrupted_runs import StopAfter


def arm(top1, gbops=0.0688):
  return {"bits": {"a": 3}, "gbops": gbops, "stage_a_top1": top1 - 1, "top1": top1}


def invented(letter, shift):
  """Values of a seed, whose differences move with `shift`."""
  if letter == "a":
    return {"selected": arm(80 + shift), "uniform_3": arm(74.0, 0.0587), "uniform_4": arm(79.0, 0.0771),
            "random_0": arm(76.0), "random_1": arm(77.0), "sensitivity": arm(80.0)}
  if letter == "c":
    series = {"steps": [10, 20], "layers": {"block_00/depthwise_norm": [1.0, 2.0 + shift]}}
    return {"distance": {"before": {"a": 0.4}, "after": {"a": 0.1}},
            "movement": {"with": {"block_00/depthwise_norm": 1.0}, "without": {"block_00/depthwise_norm": 2.0}},
            "depthwise_running_variance": {"with": series, "without": series}}
  return {"method": arm(80 + shift), "together": arm(79.0),
          "steps": {"bit_meta": 600, "bit_search": 400, "joint": 2200},
          "seconds_of_a_step": {"bit_meta": 0.5, "bit_search": 0.25, "joint": 0.25}}


def test_a_wrong_seed_is_found_before_any_run(tmp_path):
  """Seed 10 of the first claim would take half an hour."""
  result = subprocess.run(
      [sys.executable, "scripts/ledger.py", "--claim=a,b", "--seed=10,99", f"--runs={tmp_path}"], capture_output=True,
      text=True, cwd=ROOT, check=False)
  assert (result.returncode, list(tmp_path.iterdir())) == (2, [])
  assert result.stderr == "ledger: --seed names 99; claim a has the seeds 10, 11, 12, 13, 14.\n"


@pytest.fixture
def folder(tmp_path):
  """Results of claim a for all seeds, of c and g for two."""
  claims = results.read_claims(tmp_path)
  for letter, number in (("a", 5), ("c", 2), ("g", 2)):
    config = claims[letter].config
    for index, seed in enumerate(config.seeds[:number]):
      results.write_result(
          tmp_path, letter, config, seed, invented(letter, 0.1 * index),
          {"pretrained": 100.0, "reference": 200.0, f"{letter}, selected": 40.0}, "1 x cpu, 2 cores")
  return tmp_path


def test_a_result_says_what_made_it(folder):
  result = json.loads((folder / "a_10.json").read_text())
  assert re.fullmatch(r"[0-9a-f]{40}( and changes)?", result["commit"])
  assert re.fullmatch(r"\d{4}-\d\d-\d\d", result["date"])
  assert {"python", "jax", "flax"} <= set(result["versions"])
  assert result["config"]["run"]["data.name"] == "digit_pairs/small" and result["config"]["run"]["stage_b.epochs"] == 5
  assert not {"title", "paper", "minutes"} & set(result["config"])  # In other words it is no other claim.
  assert (folder / "a_10.json").stat().st_size < 8000


def test_results_of_another_config_are_refused(folder):
  config = copy.deepcopy(results.read_claims(folder)["a"].config)
  assert set(results.read_claim("a", config, folder).results) == set(config.seeds)
  config.minutes = 7
  results.read_claim("a", config, folder)
  config.rules.line = (0.0, 0.1)
  with pytest.raises(UserError, match=r"a_10.json was made with another config: rules is .* restore the config, or"):
    results.read_claim("a", config, folder)
  config.rules.line = (0.0, 0.3)
  config.run.stage_b.epochs = 6
  with pytest.raises(UserError, match="was made with another config: run is"):
    results.read_claim("a", config, folder)
  (folder / "a_10.json").write_text("{")
  with pytest.raises(UserError, match="a_10.json cannot be read .* delete it to run its seed again"):
    results.read_claims(folder)


def test_verdicts_and_tables_of_the_page(folder):
  claims = results.read_claims(folder)
  text = page.compose(page.PAGE.read_text(), claims, has_figure=True)
  assert page.compose(text, claims, has_figure=True) == text
  rows = {row.split(" | ")[0]: row.split(" | ") for row in text.splitlines()}
  # The line is at 74 + 5 * 0.0101 / 0.0184 = 76.745; the selection at 80 to 80.4, 3.255 to 3.655 above. Five numbers
  # 0.1 apart: half the interval is 2.7764 * 0.1581 / sqrt(5) = 0.196.
  assert rows["| [a](#claim-a)"][3:] == ["holds", "+3.46 (+3.26 to +3.65) points of top-1", "5 of 5 |"]
  assert rows["| [g](#claim-g)"][3:] == ["2 of 5 seeds are run", "+1.05 (+0.415 to +1.69) points of top-1", "2 of 5 |"]
  assert rows["| [b](#claim-b)"][3] == "not run yet"
  sensitivity = rows["| the selection is above the assignment by sensitivity for the same target"]
  assert sensitivity[2:] == [
      "+0.2 (+0.00368 to +0.396) points of top-1", "+0, +0.1, +0.2, +0.3, +0.4", "0, 0.3", "holds |"]
  assert rows["| uniform 3"] == ["| uniform 3", "0.0587", "74.00", "74.00, 74.00, 74.00, 74.00, 74.00 |"]
  assert "| joint | 2200 | 250 |" in text and "takes 400 s, the search of both together 550 s" in text
  assert "](images/ledger_running_variance.png)" in text
  # One pretrained network; of each seed the reference and claim a's own run; then only what is new.
  assert rows["| `python scripts/ledger.py --claim=a`"][2] == f"{(100 + 5 * 240) / 60:.0f} |"
  assert rows["| `python scripts/ledger.py --claim=g`"][2] == f"{2 * 40 / 60:.0f} for 2 of 5 seeds |"
  assert rows["| all"][2] == " |"


def test_the_page_is_written_by_its_command():
  """And the estimates of claims a to i are within six hours."""
  claims = results.read_claims()
  has_figure = (page.PAGE.parent / "images" / "ledger_running_variance.png").exists()
  assert page.compose(page.PAGE.read_text(), claims, has_figure) == page.PAGE.read_text()
  assert set(page.ORDER) == set(claims)
  assert sum(claims[letter].config.minutes for letter in "abcdefghi") <= 360
  with pytest.raises(UserError, match="has lost the comments around its verdicts"):
    page.compose("", claims, has_figure)


def test_figure_of_running_variances(folder, tmp_path):
  written = tmp_path / "docs" / "ledger.md"
  written.parent.mkdir()
  written.write_text(page.PAGE.read_text())
  claims = results.read_claims(folder)
  paths = page.write(claims, written)
  assert paths == [written, written.parent / "images" / "ledger_running_variance.png"]
  assert paths[1].stat().st_size > 5000
  assert [axes.axison for axes in page.figure.draw(claims["c"]).axes] == [True, False, False, False]  # For one layer.
  assert page.write(claims | {"c": results.Claim("c", claims["c"].config, {})}, written) == [written]
  assert not paths[1].exists()


def test_what_is_there_is_not_run_again(folder, monkeypatch):
  config, run = results.read_claims(folder)["c"].config, []
  monkeypatch.setattr(ledger, "_measure", lambda letter, config, seed, *rest: run.append(seed))
  ledger.run_claim("c", config, None, folder, folder, StopRequest())
  assert run == list(config.seeds[2:])
  ledger.run_claim("c", config, [10, 14], folder, folder, StopRequest())
  assert run[3:] == [14]


def toy(letter, data_dir):
  """A claim whose runs take seconds: a network of two blocks, one or two epochs a phase."""
  config = copy.deepcopy(results.read_claims()[letter].config)
  with config.unlocked():
    config.pretrained, config.run = tiny_config(data_dir), tiny_config(data_dir)
    config.pretrained.seed, config.reference_targets = 10, (0.0008, 0.001)
    config.run.metrics.every_steps, config.run.evaluate_every_epochs = 1, 0
  return config


@pytest.mark.slow
def test_claims_at_a_toy_size_from_end_to_end(data_dir, tmp_path):
  """Claim e, stopped after every twelve steps and phases, and continued; claim h shares runs with it."""
  runs, written = tmp_path / "runs", tmp_path / "results"
  config = toy("e", data_dir)
  starts = 0
  while not (written / "e_10.json").exists():
    starts += 1
    assert starts < 40
    try:
      ledger.run_claim("e", config, [10], runs, written, StopAfter(12))
    except Interrupted:
      continue
  assert starts > 2
  values = json.loads((written / "e_10.json").read_text())["values"]
  assert set(values) == {"distance", "full_precision", "quantized"}
  for which in ("full_precision", "quantized"):
    assert values["distance"][which]["stem_norm"] == 0 and values["distance"][which]["head_norm"] > 0
    assert 0 <= values[which]["top1"] <= 100
  assert values["full_precision"]["bits"] == values["quantized"]["bits"]

  finished = {path: path.stat().st_mtime_ns for path in runs.rglob("*.json") if "trained" in path.parts}
  ledger.run_claim("h", toy("h", data_dir), [10], runs, written, StopRequest())
  assert {path: path.stat().st_mtime_ns for path in finished} == finished
  result = json.loads((written / "h_10.json").read_text())
  assert result["values"]["mean"] == values["full_precision"]
  assert set(result["seconds"]) == {
      "pretrained", "reference", "reference, selected", "last_width_alone", "last_width_alone, selected"}
  claim = results.read_claim("h", toy("h", data_dir), written)
  assert set(claim.results) == {10} and claim.statements == [] and claim.verdict is None


@pytest.mark.slow
@pytest.mark.parametrize(("letter", "arms"), [
    ("l", {"activations_alone", "activations_and_weights", "uniform_3", "uniform_8"}),
    ("m", {"method", "together", "quantized", "full_precision"}),
    ("n", {"selected", "kept_classes", "repeated_crops"})])
def test_our_own_claims_at_a_toy_size(letter, arms, data_dir, tmp_path):
  config = toy(letter, data_dir)
  with config.unlocked():
    config.update({"l": dict(uniform_bits=(3, 8), timed_steps=1), "m": dict(full_epochs=(1, 1), together_epochs=1),
                   "n": dict(kept_classes=2, repeat_epochs=1)}[letter])
  ledger.run_claim(letter, config, [10], tmp_path / "runs", tmp_path, StopRequest())
  values = json.loads((tmp_path / f"{letter}_10.json").read_text())["values"]
  trained = {name: arm for name, arm in values.items() if "top1" in arm}
  assert set(trained) == arms
  kernels = {name for name in trained.get("activations_and_weights", {"bits": {}})["bits"] if name.endswith("/kernel")}
  assert bool(kernels) == (letter == "l")
  if letter == "l":
    assert set(values["seconds_of_a_step"]) == {
        "bit_meta_alone", "bit_search_alone", "bit_meta_both", "bit_search_both"}
