"""Targets that are chosen after the search: settled, evaluated, reported, trained."""

import json
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest

from metamix_jax import experiment
from metamix_jax.config_file import flatten, load_config
from metamix_jax.errors import UserError
from metamix_jax.method.assignments import assign_by_sensitivity
from metamix_jax.method.costs import peak_activation_bytes, total_activation_bytes
from metamix_jax.method.selection import alpha_for_target, select_within_target
from metamix_jax.records.alpha import read_alpha
from metamix_jax.records.chosen_targets import write_chosen_target
from metamix_jax.records.results import BitSelection, TargetResult
from metamix_jax.reporting import curve, page, saved_run, tables
from metamix_jax.training.context import prepare
from tests.helpers.configs import digits_config, tiny_config
from tests.helpers.files import ROOT, load_script
from tests.helpers.saved_runs import write_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """The folder of a finished run of two targets."""
  config = digits_config()
  config.arch.target_gbops = (0.021, 0.032)
  write_run(folder := tmp_path_factory.mktemp("finished"), config, 10, 1)
  return folder


@pytest.fixture
def run(folder, tmp_path):
  """The run in a folder of the test's own."""
  return saved_run.read(shutil.copytree(folder, tmp_path / "run"))


def test_bits_come_from_the_searches_on_both_sides(run):
  alpha, tolerance = read_alpha(run.folder, run.layers), run.config["arch.target_tolerance"]
  near, far, above = load_script("choose").settle(run, [0.022, 0.03, 0.04])
  for chosen in (near, far, above):
    target = chosen.result.target_gbops
    assert chosen.result.bits == select_within_target(run.layers, alpha_for_target(alpha, target), target, tolerance)
    assert (1 - tolerance) * target <= chosen.result.gbops <= target
  assert near.searches == pytest.approx({0.021: 10 / 11, 0.032: 1 / 11})
  assert above.searches == {0.032: 1.0}


@pytest.mark.parametrize("targets, sentence", [
    ([0.0320000001], r"--target is 0.032, which the run in .* searched, or which is given twice"),
    ([0.03, 0.03], "--target is 0.03, which the run in .* searched, or which is given twice"),
    ([0.5], "--target is 0.5; this network reaches 0.0177459 to 0.0432538 GBOPs"),
    ([0.001], "--target is 0.001; this network")])
def test_a_target_that_cannot_be_chosen_is_one_sentence(run, targets, sentence):
  with pytest.raises(UserError, match=sentence):
    load_script("choose").settle(run, targets)


def test_further_limits_are_kept_and_written(run, tmp_path):
  choose = load_script("choose")
  free, = choose.settle(run, [0.03])
  free_bytes = total_activation_bytes(run.layers, free.result.all_bits)
  free_peak = peak_activation_bytes(run.layers, free.result.all_bits)
  limits = [f"activation_bytes={0.9 * free_bytes}", f"peak_activation_bytes={free_peak}"]
  chosen, = choose.settle(run, [0.03], limits)
  in_bytes, peak = chosen.result.limits
  assert in_bytes.cost == total_activation_bytes(run.layers, chosen.result.all_bits) <= 0.9 * free_bytes
  assert peak.cost == peak_activation_bytes(run.layers, chosen.result.all_bits) <= free_peak
  assert chosen.result.gbops <= 0.03 and (
      chosen.name == f"0.03_activation_bytes_{0.9 * free_bytes:g}_peak_activation_bytes_{free_peak:g}")
  write_chosen_target(run.folder, chosen, run.layers, run.config["arch.target_tolerance"])
  write_chosen_target(run.folder, free, run.layers, run.config["arch.target_tolerance"])
  again = saved_run.read(run.folder).chosen_targets
  assert set(map(str, again)) == set(map(str, (free, chosen)))
  searched, = choose.settle(run, [0.032], limits)  # A searched target may have further limits.
  assert searched.searches == {0.032: 1.0}
  with pytest.raises(UserError, match="no assignment of bits keeps the target 0.03 and every limit of --at_most or"):
    choose.settle(run, [0.03], ["activation_bytes=1"])


def test_a_run_whose_bits_came_from_a_file_has_no_alpha(run):
  (run.folder / "checkpoints" / "bit_selection.json").write_text(
      json.dumps(BitSelection(run.target_results).to_json() | {"seconds": 1.0, "best": None}))
  with pytest.raises(UserError, match="has no alpha; its run took its bits from a file"):
    load_script("choose").settle(run, [0.03])
  losses = {layer.name: [1.0] * len(layer.candidate_bits) for layer in run.layers if layer.searched}
  chosen, = load_script("choose").settle(run, [0.03], losses=losses)  # The sensitivity needs none.
  assert chosen.searches == {} and chosen.result.gbops <= 0.03


def test_curve_page_and_terminal_show_what_was_chosen(run):
  chosen, = load_script("choose").settle(run, [0.027])
  evaluated = TargetResult.from_json(
      chosen.result.to_json() | {"meta_state_top1": 71.25}, run.layers, chosen.result.tolerance)
  write_chosen_target(
      run.folder, type(chosen)(evaluated, chosen.searches), run.layers, run.config["arch.target_tolerance"])
  again = saved_run.read(run.folder)
  axes = curve.accuracy_against_cost(again).axes[0]
  drawn = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
  assert drawn["chosen afterwards, meta-state"] == [[evaluated.gbops, 71.25]]
  assert [top1 for _, top1 in drawn["selected bits, meta-state"]] == [71.0, 71.7]
  row, = (line for line in tables.format_table(again).splitlines() if line.endswith("chosen afterwards"))
  assert row.split()[:4] == [
      "0.027", f"{evaluated.gbops:.6f}", f"{evaluated.average_activation_bits:.3f}", "71.25"]
  text = page.write(run.folder).read_text()
  assert f"<td>bits chosen afterwards</td><td>0.027</td><td>{evaluated.gbops:.6g}</td>" in text
  assert "<th>bits at 0.027 GBOPs</th>" in text and (run.folder / "report" / "bits_0.027.png").exists()


def test_bits_by_sensitivity_have_the_least_sum_of_losses(run):
  """Also for a searched target, and within a limit; written beside what the search has selected."""
  choose, rng = load_script("choose"), np.random.default_rng(0)
  losses = {layer.name: rng.uniform(size=len(layer.candidate_bits)).tolist() for layer in run.layers if layer.searched}
  chosen, = choose.settle(run, [0.032], losses=losses)
  assert chosen.result.bits == assign_by_sensitivity(run.layers, losses, 0.032, run.config["arch.target_tolerance"])
  assert chosen.searches == {} and chosen.name == "0.032_by_sensitivity" and chosen.label == "by sensitivity"
  limit = 0.95 * total_activation_bytes(run.layers, chosen.result.all_bits)
  limited, = choose.settle(run, [0.032], [f"activation_bytes={limit}"], losses)
  assert limited.name == f"0.032_by_sensitivity_activation_bytes_{limit:g}"
  assert total_activation_bytes(run.layers, limited.result.all_bits) <= limit

  def loss_of(bits):
    return sum(losses[layer.name][layer.candidate_of(bits[layer.name])] for layer in run.layers if layer.searched)

  assert loss_of(chosen.result.bits) < loss_of(limited.result.bits)
  write_chosen_target(run.folder, chosen, run.layers, run.config["arch.target_tolerance"])
  again, = saved_run.read(run.folder).chosen_targets
  assert again == chosen
  assert "selected_bits_0.032_by_sensitivity.json" in choose.training_command(run.folder, chosen)
  assert "by sensitivity" in "\n".join(tables.format_curve(saved_run.read(run.folder)))
  with pytest.raises(UserError, match="--target is 0.5; this network reaches"):
    choose.settle(run, [0.5], losses=losses)


@pytest.mark.slow
def test_sensitivity_is_measured_once(data_dir, tmp_path):
  """The second start reads the file of the first one; both choose what the losses in it say."""
  config, workdir = tiny_config(data_dir), tmp_path / "run"
  config.arch.train_targets, config.reestimation_batches = (), 2
  experiment.run(prepare(config), workdir)
  for target in ("0.0008", "0.001"):
    printed = subprocess.run(
        [sys.executable, "scripts/choose.py", workdir, f"--target={target}", "--by=sensitivity"],
        capture_output=True, text=True, cwd=ROOT, check=False)
    assert printed.returncode == 0, printed.stderr
    assert f"To train {target} GBOPs, chosen by sensitivity:" in printed.stdout
    lines = (workdir / "sensitivity.jsonl").read_text().splitlines()
    layers = saved_run.read(workdir).layers
    # Each candidate of each searched layer; that with all others at the middle one is the same for all layers.
    number = sum(len(layer.candidate_bits) - 1 for layer in layers if layer.searched) + 1
    assert len(lines) == 1 + number
  scores = {tuple(entry["bits"]): entry["loss"] for entry in map(json.loads, lines[1:])}
  searched = [layer for layer in layers if layer.searched]
  middle = {layer.name: layer.candidate_bits[1] for layer in searched}
  losses = {layer.name: [scores[tuple((middle | {layer.name: bits}).values())] for bits in layer.candidate_bits]
            for layer in searched}
  run = saved_run.read(workdir)
  low, high = run.chosen_targets
  for chosen in (low, high):
    assert chosen.result.bits == assign_by_sensitivity(
        layers, losses, chosen.result.target_gbops, run.config["arch.target_tolerance"])
    assert chosen.result.meta_state_top1 is not None


def test_the_config_of_a_run_is_a_config_of_every_command(run, tmp_path):
  loaded = load_config(ROOT / "configs" / "of_run.py", str(run.folder))
  expected = digits_config()
  expected.arch.target_gbops = (0.021, 0.032)
  assert flatten(loaded) == flatten(expected) and loaded.is_locked
  fields = json.loads((run.folder / "config.json").read_text())
  fields["checkpoints.max_to_keep"] = 7
  del fields["metrics.alarm_records"]  # As if the field were younger than the run.
  (run.folder / "config.json").write_text(json.dumps(fields))
  loaded = load_config(ROOT / "configs" / "of_run.py", str(run.folder))
  assert loaded.checkpoints.max_to_keep == 7 and loaded.metrics.alarm_records == expected.metrics.alarm_records
  with pytest.raises(UserError, match="is not the folder of a run"):
    load_config(ROOT / "configs" / "of_run.py", str(tmp_path / "none"))


@pytest.mark.slow
def test_the_printed_command_trains_what_was_chosen(data_dir, tmp_path):
  config, workdir = tiny_config(data_dir), tmp_path / "run"
  config.arch.target_gbops, config.arch.train_targets = (0.0007, 0.001), ()
  experiment.run(prepare(config), workdir)

  def run_command(command):
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

  printed = run_command([sys.executable, "scripts/choose.py", workdir, "--target=0.0008"])
  assert printed.returncode == 0, printed.stderr
  chosen, = saved_run.read(workdir).chosen_targets
  assert f"{chosen.result.meta_state_top1:.2f}" in printed.stdout
  assert "To train 0.0008 GBOPs, chosen from the search for 0.0007 (67%) and 0.001 (33%):" in printed.stdout
  command, = (line for line in printed.stdout.splitlines() if line.startswith("  python -m metamix_jax.main"))
  python, *arguments = shlex.split(command)
  assert python == "python"
  trained = run_command([sys.executable, *arguments])
  assert trained.returncode == 0, trained.stderr
  summary = json.loads((tmp_path / "run_0.0008" / "report" / "summary.json").read_text())
  result, = summary["targets"]
  assert result["bits"] == chosen.result.bits and result["target_gbops"] == 0.0008
  assert result["meta_state_top1"] == chosen.result.meta_state_top1  # The same meta-state, evaluated alike.
  assert result["final_top1"] is not None
