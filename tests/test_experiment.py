"""Whole runs on digits with a tiny network."""

import dataclasses
import json
import logging
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from metamix_jax import experiment
from metamix_jax.config_file import flatten
from metamix_jax.errors import UserError
from metamix_jax.method.bops import complete_bits, gbops
from metamix_jax.method.selection import most_probable_bits, select_within_target
from metamix_jax.models import create_network, pretrained
from metamix_jax.nn.scheme import QuantizationScheme
from metamix_jax.records.selected_bits import write_selected_bits
from metamix_jax.reporting import page
from metamix_jax.training.context import prepare
from metamix_jax.training.evaluation import evaluate_bits
from metamix_jax.training.saved_search import load_search
from tests.helpers.configs import tiny_config
from tests.helpers.files import ROOT
from tests.helpers.interrupted_runs import parameters


class CompilationCounter(logging.Handler):
  """Counts the programs that XLA compiles, by name."""

  def __init__(self):
    super().__init__(logging.DEBUG)
    self.counts = {}

  def emit(self, record):
    message = record.getMessage()
    if message.startswith("Finished XLA compilation of "):
      name = message.split()[4]
      self.counts[name] = self.counts.get(name, 0) + 1


@pytest.fixture(scope="module")
def finished_run(data_dir, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("run")
  counter, logger = CompilationCounter(), logging.getLogger("jax")
  logger.addHandler(counter)
  with jax.log_compiles():
    summary = experiment.run(prepare(tiny_config(data_dir)), workdir)
  logger.removeHandler(counter)
  return workdir, summary, counter.counts


def test_summary_has_every_figure(finished_run):
  workdir, summary, _ = finished_run
  assert json.loads((workdir / "report" / "summary.json").read_text()) == json.loads(json.dumps(summary))
  assert [result["bits"] for result in summary["uniform"]] == [3, 4, 8]
  target, = summary["targets"]
  assert len(target["bits"]) == 2 + 3 + 1  # First block 2, second 3, the last convolution.
  assert target["gbops"] <= target["target_gbops"] == 0.0008
  for distances in summary["activation_stability"]["before"], summary["activation_stability"]["after"]:
    assert list(distances) == [  # Each batch norm once, in the order of the calls.
        "stem_norm", "block_00/depthwise_norm", "block_00/project_norm", "block_01/expand_norm",
        "block_01/depthwise_norm", "block_01/project_norm", "head_norm"]
    assert distances["stem_norm"] == 0  # It reads what a layer that is not searched gives.
    assert all(0.001 < distance < 2 for name, distance in distances.items() if name != "stem_norm")
  network = json.loads((workdir / "network.json").read_text())
  assert (network["network"], network["image_size"]) == ("mobilenet_v2", 8)
  assert [layer["name"] for layer in network["layers"] if layer["searched"]] == list(target["bits"])
  assert network["layers"][0] == {
      # The stem: 3 * 3 * 1 weights for each of 8 x 8 positions in 8 channels.
      "name": "stem", "macs": 4608, "input_elements": 64, "candidate_bits": [8], "weight_bits": 8, "kind": "conv",
      "input_range": "signed", "weight_elements": 72, "searched": False}
  assert set(summary["seconds"]) == {"pretraining", "bit_selection", "meta_evaluation", "stage_a", "stage_b"}


def test_each_program_compiles_once_for_each_structure(finished_run):
  """Bits change over evaluation and search; programs do not.

  weight_step and evaluation_step have three structures each (full precision; activations quantised; weights too);
  bit_meta, bit_search, calibration, input_range, batch_moments, teacher_targets and label_targets one. pmap names them
  all _fun.
  """
  assert finished_run[2]["jit(_fun)"] == 3 + 3 + 7


def test_same_seed_same_bits_and_parameters(finished_run, data_dir, tmp_path):
  workdir, summary, _ = finished_run
  again = experiment.run(prepare(tiny_config(data_dir)), tmp_path)
  assert again["targets"] == summary["targets"]
  jax.tree.map(np.testing.assert_array_equal, parameters(workdir), parameters(tmp_path))


def test_finished_run_is_restored_not_run_again(finished_run, data_dir):
  workdir, summary, _ = finished_run
  again = experiment.run(prepare(tiny_config(data_dir)), workdir)
  assert again["seconds"] == summary["seconds"]
  assert again["targets"] == summary["targets"]


@pytest.mark.slow
def test_search_first_then_train_one_after_the_other(finished_run, data_dir, tmp_path):
  """No start does again what an earlier one did, and each network is that of a run with its target alone."""
  config = tiny_config(data_dir)
  config.arch.target_gbops = (0.0008, 0.001)
  before, trained = {}, set()
  for chosen, new in (((), {"pretraining", "bit_selection", "meta_evaluation"}),
                      ((0.001,), {"stage_a_0.001", "stage_b_0.001"}),
                      ((0.0008,), {"stage_a_0.0008", "stage_b_0.0008"})):
    config.arch.train_targets = chosen
    summary = experiment.run(prepare(config), tmp_path)
    after = {path.stem: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").glob("*.json")}
    assert after.keys() - before.keys() == new
    assert {name: after[name] for name in before} == before
    before, trained = after, trained | set(chosen)
    results = summary["targets"]
    assert {result["target_gbops"] for result in results if result["final_top1"] is not None} == trained
    assert set(summary["seconds"]) == after.keys()
  for result in results:
    bits = json.loads((tmp_path / f"selected_bits_{result['target_gbops']:g}.json").read_text())
    assert bits == {"selected": result["bits"]}
  assert results[0] == finished_run[1]["targets"][0]
  jax.tree.map(np.testing.assert_array_equal, parameters(tmp_path, "stage_b_0.0008"), parameters(finished_run[0]))


def test_a_finished_run_keeps_its_meta_state_and_alpha(finished_run, data_dir):
  """Both give what the run itself found, and bits for a target that it did not have."""
  workdir, summary, _ = finished_run
  context = prepare(tiny_config(data_dir))
  layers, target = context.network.layers, summary["targets"][0]
  search = load_search(context, workdir)
  alpha, = search.alpha.values()
  assert list(search.alpha) == [0.0008]
  assert select_within_target(layers, alpha, 0.0008, context.config.arch.target_tolerance) == target["bits"]
  assert most_probable_bits(layers, alpha) == target["most_probable_bits"]
  assert evaluate_bits(context, search.meta, target["bits"]) == target["meta_state_top1"]
  other = select_within_target(layers, alpha, 0.001, 0.03)  # So few layers come no nearer to it.
  assert other != target["bits"] and 0.97 * 0.001 <= gbops(layers, complete_bits(layers, other)) <= 0.001


def test_a_saved_search_of_another_network_is_refused(finished_run, data_dir, tmp_path):
  config = tiny_config(data_dir)
  with pytest.raises(UserError, match="has no checkpoints/bit_selection.json; allowed is the folder of a run whose"):
    load_search(prepare(config), tmp_path)
  config.quantization.candidate_bits = (2, 4, 8)  # Arrays of the same shape.
  with pytest.raises(UserError, match=r"another network: its layer block_00/depthwise \(candidates 3, 4, 8, input "
                     r"unsigned\) stands where layer block_00/depthwise \(candidates 2, 4, 8, input unsigned\) is"):
    load_search(prepare(config), finished_run[0])
  config = tiny_config(data_dir)
  config.network.options.stem_channels, config.arch.target_gbops = 16, 0.0012  # Layers of the same names.
  with pytest.raises(UserError, match=r"checkpoints/bit_selection is of another network: .* float32 \["):
    load_search(prepare(config), finished_run[0])
  context = prepare(tiny_config(data_dir))
  fewer = dataclasses.replace(context.network, layers=context.network.layers[:-1])
  with pytest.raises(UserError, match="has another network: 8 layers there and 7 here"):
    load_search(dataclasses.replace(context, network=fewer), finished_run[0])


def test_a_folder_with_candidate_indices_is_refused(finished_run, data_dir, tmp_path):
  """As an earlier version wrote bit_selection.json; nothing is run again, and the file stays."""
  shutil.copytree(finished_run[0], tmp_path / "run")
  path = tmp_path / "run" / "checkpoints" / "bit_selection.json"
  values = json.loads(path.read_text())
  values["budgets"] = [{"target_gbops": 0.0008, "candidates": {"head": 1}, "most_probable": {"head": 0}}]
  del values["targets"]
  path.write_text(json.dumps(values))
  with pytest.raises(UserError, match=r"bit_selection.json cannot be read \('targets' is missing\); it is damaged, or "
                     "another version of metamix_jax wrote it") as caught:
    experiment.run(prepare(tiny_config(data_dir)), tmp_path / "run")
  assert "\n" not in str(caught.value) and json.loads(path.read_text()) == values


def test_workdir_of_another_config(finished_run, data_dir):
  config = tiny_config(data_dir)
  config.seed = 1
  with pytest.raises(ValueError, match="another config: seed is 0 there and 1 here"):
    experiment.run(prepare(config), finished_run[0])


def test_a_run_does_not_go_on_with_other_bits_of_the_same_file(finished_run, data_dir, tmp_path):
  """The phases that are finished would be restored, and the bits of the file would count for nothing."""
  workdir = shutil.copytree(finished_run[0], tmp_path / "run")
  bits = finished_run[1]["targets"][0]["bits"]
  bits_file = tmp_path / "bits.json"
  write_selected_bits(bits_file, bits)
  config = tiny_config(data_dir)
  config.bits_from = str(bits_file)
  (workdir / "config.json").write_text(json.dumps(flatten(config)))
  again = experiment.run(prepare(config), workdir)
  assert again["targets"] == finished_run[1]["targets"]
  name = next(iter(bits))
  write_selected_bits(bits_file, bits | {name: 3 if bits[name] != 3 else 8})
  with pytest.raises(UserError, match=rf"^config.bits_from=.*bits.json has . bits for {name}, and this run began with"):
    experiment.run(prepare(config), workdir)


def test_bits_from_skips_the_search(finished_run, data_dir, tmp_path):
  config = tiny_config(data_dir)
  config.bits_from = str(finished_run[0] / "selected_bits.json")
  config.arch.target_gbops = (0.0008,)  # A tuple of one is that one.
  summary = experiment.run(prepare(config), tmp_path)
  target, = summary["targets"]
  assert target["bits"] == target["most_probable_bits"] == finished_run[1]["targets"][0]["bits"]
  assert target["target_gbops"] == 0.0008
  # No bit-search steps, all bit-meta steps: the same meta-state, and from it the same network.
  lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  selection = [line for line in lines if line["phase"] == "bit_selection"]
  assert selection[-1]["step"] == 2 * 5 and not any(name.startswith("search/") for line in selection for name in line)
  assert summary["activation_stability"] == finished_run[1]["activation_stability"]
  assert target["meta_state_top1"] == finished_run[1]["targets"][0]["meta_state_top1"]
  for phase in ("bit_selection", "stage_b"):
    jax.tree.map(np.testing.assert_array_equal, parameters(tmp_path, phase), parameters(finished_run[0], phase))
  assert page.write(tmp_path).exists()
  with pytest.raises(UserError, match="bit_selection.json has no alpha; its run took its bits from a file"):
    load_search(prepare(config), tmp_path)


@pytest.mark.slow
def test_a_run_on_the_meta_state_of_another_one(finished_run, data_dir, tmp_path):
  """Neither pretraining nor bit-meta steps; the same network as the run that did both."""
  config = tiny_config(data_dir)
  config.meta_state_from, config.bits_from = str(finished_run[0]), str(finished_run[0] / "selected_bits.json")
  config.pretraining.epochs = 0
  summary = experiment.run(prepare(config), tmp_path)
  lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert {line["phase"] for line in lines} == {"stage_a", "stage_b"}
  assert summary["full_precision_top1"] == finished_run[1]["full_precision_top1"]
  assert summary["uniform"] == finished_run[1]["uniform"] and "activation_stability" not in summary
  assert page.write(tmp_path).exists()
  for phase in ("pretraining", "bit_selection"):
    jax.tree.map(np.testing.assert_array_equal, parameters(tmp_path, phase), parameters(finished_run[0], phase))
  config.meta_state_from = str(tmp_path / "nothing")
  with pytest.raises(UserError, match="nothing has no checkpoints/bit_selection.json; allowed is the folder of a run"):
    prepare(config)


def test_damaged_bits_file(finished_run, data_dir, tmp_path):
  good = json.loads((finished_run[0] / "selected_bits.json").read_text())["selected"]
  config = tiny_config(data_dir)
  config.bits_from = str(tmp_path / "bits.json")
  for content, sentence in (
      ("{", "cannot be read"),
      (json.dumps({"selected": {k: v for k, v in good.items() if k != "head"}}), "'head' is missing"),
      (json.dumps({"selected": good | {"head": 5}}), "gives layer 'head' 5 bits"),
  ):
    (tmp_path / "bits.json").write_text(content)
    with pytest.raises(ValueError, match=sentence):
      prepare(config)


@pytest.mark.slow
def test_weights_for_other_classes_train_on_with_a_new_classifier(data_dir, tmp_path, monkeypatch):
  """A file for 7 classes; the digits have 10. What pretraining starts from, and that a run without it is refused."""
  config = tiny_config(data_dir)
  options = config.network.options.to_dict()
  start = create_network("mobilenet_v2", 7, QuantizationScheme((8,), 8, 8), options).init(
      jax.random.key(5), np.zeros((1, 8, 8, 1), np.float32), train=False)
  pretrained.save(str(tmp_path / "w"), {"weights": start["params"], "batch_stats": start["batch_stats"]})
  config.pretraining.weights = str(tmp_path / "w")
  with pytest.raises(UserError, match=r"w has 'classifier/bias' as float32 \(7,\); this mobilenet_v2 needs float32 "
                     r"\(10,\); for another number of classes, set config.pretraining.new_classifier to True"):
    prepare(config)
  config.pretraining.new_classifier = True
  context, begun = prepare(config), []
  monkeypatch.setattr(experiment.phases, "pretrain", lambda context, meta, *rest: (begun.append(meta) or meta, None))
  random_start = jax.device_get(experiment.phases.create_student(context))
  _, results = experiment._pretrain(context, None, experiment.phases.create_student(context), None)
  weights = jax.device_get(begun[0].weights)
  jax.tree.map(np.testing.assert_array_equal, weights.pop("classifier"), random_start.weights["classifier"])
  for name, layer in weights.items():
    jax.tree.map(np.testing.assert_array_equal, layer, start["params"][name])
  assert results["best"] is None and 0 <= results["full_precision_top1"] <= 100


@pytest.mark.slow
def test_the_quality_of_a_finished_search_is_measured_from_its_files(finished_run, tmp_path):
  workdir, summary, _ = finished_run
  folder = tmp_path / "run"
  shutil.copytree(workdir, folder)
  settings = dict(num_random=3, num_local=2, random_batches=1, judging_batches=1, num_resamples=10)
  command = [sys.executable, str(ROOT / "scripts" / "search_quality.py"), str(folder),
             *(f"--config.{name}={value}" for name, value in settings.items())]
  process = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
  assert process.returncode == 0, process.stderr
  measured = json.loads((folder / "report" / "search_quality.json").read_text())
  target, = measured["targets"]
  # The same state, bits and images as in the run itself.
  assert target["selected"]["bits"] == summary["targets"][0]["bits"]
  assert target["selected"]["top1"] == pytest.approx(summary["targets"][0]["meta_state_top1"], abs=1e-9)
  assert [measured["uniform"][str(result["bits"])]["top1"] for result in summary["uniform"]] == pytest.approx(
      [result["top1"] for result in summary["uniform"]], abs=1e-9)
  assert len(target["random"]) == 3 and measured["num_images"] == 450 and measured["num_random_images"] == 128
  assert target["verdict"] in process.stdout and "<svg" in (folder / "report" / "report.html").read_text()
  refused = subprocess.run([*command[:3], "--config.random=1"], capture_output=True, text=True, cwd=tmp_path)
  assert refused.returncode == 2 and "unknown config field random" in refused.stderr
