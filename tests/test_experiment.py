"""Whole runs on digits with a tiny network, and the sentences for bad input."""

import importlib.util
import json
import logging
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from metamix_jax import experiment
from metamix_jax.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent


def digits_config():
  spec = importlib.util.spec_from_file_location("digits", ROOT / "configs" / "digits.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config()


def tiny_config(data_dir):
  config = digits_config()
  config.data.data_dir = str(data_dir)
  config.data.image_size = 8
  config.batch_size, config.evaluation_batch_size, config.reestimation_batches = 256, 128, 2
  with config.network.options.unlocked():
    config.network.options.update(stem_channels=8, blocks=((1, 8, 1, 1), (2, 8, 1, 2)), last_channels=16)
  config.arch.target_gbops = 0.0008
  config.pretraining.epochs = config.stage_a.epochs = config.stage_b.epochs = 1
  config.bit_selection.epochs, config.bit_selection.meta_only_epochs = 2, 1
  return config


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("tfds")


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
    summary = experiment.run(tiny_config(data_dir), workdir)
  logger.removeHandler(counter)
  return workdir, summary, counter.counts


def parameters(workdir, phase="stage_b"):
  with ocp.StandardCheckpointer() as checkpointer:
    return checkpointer.restore(workdir / "checkpoints" / phase)


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
    assert distances.pop("stem_norm") == 0  # It reads what a layer that is not searched gives.
    assert all(0.001 < distance < 2 for distance in distances.values())
  network = json.loads((workdir / "network.json").read_text())
  assert (network["network"], network["image_size"]) == ("mobilenet_v2", 8)
  assert [layer["name"] for layer in network["layers"] if layer["searched"]] == list(target["bits"])
  assert network["layers"][0] == {
      # The stem: 3 * 3 * 1 weights for each of 8 x 8 positions in 8 channels.
      "name": "stem", "macs": 4608, "input_elements": 64, "candidate_bits": [8], "weight_bits": 8, "kind": "conv",
      "input_range": "signed", "searched": False}
  assert set(summary["seconds"]) == {"pretraining", "bit_selection", "meta_evaluation", "stage_a", "stage_b"}


def test_each_program_compiles_once_for_each_structure(finished_run):
  """Bits change over evaluation and search; programs do not.

  weight_step and evaluation_step have three structures each (full precision; activations quantised; weights too);
  bit_meta, bit_search, calibration, batch_moments, teacher_targets and label_targets one. pmap names them all _fun.
  """
  assert finished_run[2]["jit(_fun)"] == 3 + 3 + 6


def test_same_seed_same_bits_and_parameters(finished_run, data_dir, tmp_path):
  workdir, summary, _ = finished_run
  again = experiment.run(tiny_config(data_dir), tmp_path)
  assert again["targets"] == summary["targets"]
  jax.tree.map(np.testing.assert_array_equal, parameters(workdir), parameters(tmp_path))


def test_finished_run_is_restored_not_run_again(finished_run, data_dir):
  workdir, summary, _ = finished_run
  again = experiment.run(tiny_config(data_dir), workdir)
  assert again["seconds"] == summary["seconds"]
  assert again["targets"] == summary["targets"]


def test_search_first_then_train_one_after_the_other(finished_run, data_dir, tmp_path):
  """No start does again what an earlier one did, and each network is that of a run with its target alone."""
  config = tiny_config(data_dir)
  config.arch.target_gbops = (0.0008, 0.001)
  before, trained = {}, set()
  for chosen, new in (((), {"pretraining", "bit_selection", "meta_evaluation"}),
                      ((0.001,), {"stage_a_0.001", "stage_b_0.001"}),
                      ((0.0008,), {"stage_a_0.0008", "stage_b_0.0008"})):
    config.arch.train_targets = chosen
    summary = experiment.run(config, tmp_path)
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
    experiment.run(tiny_config(data_dir), tmp_path / "run")
  assert "\n" not in str(caught.value) and json.loads(path.read_text()) == values


def test_workdir_of_another_config(finished_run, data_dir):
  config = tiny_config(data_dir)
  config.seed = 1
  with pytest.raises(ValueError, match="another config: seed is 0 there and 1 here"):
    experiment.run(config, finished_run[0])


def test_bits_from_skips_the_search(finished_run, data_dir, tmp_path):
  config = tiny_config(data_dir)
  config.bits_from = str(finished_run[0] / "selected_bits.json")
  config.arch.target_gbops = (0.0008,)  # A tuple of one is that one.
  summary = experiment.run(config, tmp_path)
  target, = summary["targets"]
  assert target["bits"] == target["most_probable_bits"] == finished_run[1]["targets"][0]["bits"]
  assert target["target_gbops"] == 0.0008
  assert "activation_stability" not in summary


@pytest.mark.parametrize("field, value, sentence", [
    ("quantization.candidate_bits", (4, 3, 8), r"candidate_bits is \(4, 3, 8\); it must be at least two different"),
    ("quantization.candidate_bits", (3, 3, 8), "ascending order"),
    ("quantization.candidate_bits", (1, 4, 8), "integers from 2 to 8"),
    ("quantization.candidate_bits", (3, 4, 9), "integers from 2 to 8"),
    ("arch.target_gbops", 5.0, r"target_gbops is 5; this network reaches 0\.\d+ to 0\.\d+ GBOPs"),
    ("arch.target_gbops", (0.0008, 5.0), r"target_gbops is 5; this network reaches"),
    ("arch.target_gbops", (0.0008, 0.0008), r"target_gbops is \(0.0008, 0.0008\); it must be a number above 0, or a"),
    ("arch.target_gbops", (0.0008, 0.00080000001), "differ in their first six digits"),
    ("arch.target_gbops", (0.0009, 0.0008), "in ascending order"),
    ("arch.target_gbops", (), "a number above 0, or a tuple"),
    ("arch.target_gbops", "0.1", "a number above 0, or a tuple"),
    ("arch.train_targets", (0.0009,), "train_targets names 0.0009; allowed are the .*target_gbops, 0.0008"),
    ("arch.train_targets", 0.0008, "a tuple of targets from arch.target_gbops, or None for all"),
    ("batch_size", 1_000_000, "batch_size is 1000000; the training split has only 1347 images"),
    ("data.name", "no_such_set", "no_such_set"),
    ("network.name", "no_such_net", "allowed are mobilenet_v2"),
    ("bits_from", "/nowhere/bits.json", "bits_from=/nowhere/bits.json cannot be read"),
    ("bit_selection.meta_only_epochs", 2, "must be below"),
])
def test_bad_value_is_one_sentence_before_compilation(field, value, sentence, data_dir):
  config = tiny_config(data_dir)
  with config.ignore_type():
    config.update_from_flattened_dict({field: value})
  with pytest.raises(ValueError, match=sentence) as caught:
    experiment.prepare(config)
  assert "\n" not in str(caught.value)


def test_batch_size_that_devices_do_not_divide(data_dir):
  config = tiny_config(data_dir)
  devices = jax.local_device_count()
  assert devices > 1  # conftest.py fakes them.
  config.batch_size = devices + 1
  with pytest.raises(ValueError, match=f"which {devices} devices do not divide; allowed are multiples"):
    experiment.prepare(config)


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
      experiment.prepare(config)


def test_unknown_field_on_the_command_line(tmp_path):
  result = subprocess.run(
      [sys.executable, "-m", "metamix_jax.main", f"--config={ROOT}/configs/digits.py", f"--workdir={tmp_path}/run",
       "--config.arch.target_gbop=1"], capture_output=True, text=True, cwd=ROOT, check=False)
  assert result.returncode == 2
  assert "target_gbop" in result.stderr and "Traceback" not in result.stderr
  assert not (tmp_path / "run").exists()
