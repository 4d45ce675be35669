"""The quality of a search: scores of images, what is kept in the file, and every baseline of a tiny network."""

import copy
import dataclasses
import json
import pathlib

import ml_collections
import numpy as np
import pytest

from metamix_jax.errors import UserError
from metamix_jax.method.bops import complete_bits, gbops, uniform_bits
from metamix_jax.records.results import BitSelection, TargetResult
from metamix_jax.training import context, evaluation, judge, phases
from metamix_jax.training.judge import bootstrap_interval
from metamix_jax.training.search_quality import measure_search_quality
from tests.helpers.configs import middle_target, tiny_config

SETTINGS = ml_collections.ConfigDict(
    dict(seed=0, num_random=6, random_batches=2, judging_batches=2, num_local=5, num_resamples=100))


@pytest.fixture(scope="module")
def searched(data_dir):
  """A context, and a meta-state with step sizes; nothing is trained."""
  config = tiny_config(data_dir)
  config.arch.target_gbops = middle_target(config)
  work = context.prepare(config)
  return work, work.replicate(phases.start_step_sizes(work, phases.create_student(work)).without_optimizer())


def at(layers, bits):
  everywhere = uniform_bits(layers, bits)
  return {layer.name: everywhere[layer.name] for layer in layers if layer.searched}


def test_scores_of_images_average_to_the_evaluation(searched):
  work, meta = searched
  layers = work.network.layers
  on_evaluation = judge.evaluation_judge(work, meta)
  assert on_evaluation.num_images == 450  # The padding of the last batch is left out.
  for bits in (3, 8):
    scores = on_evaluation.score(at(layers, bits))
    assert scores.losses.shape == scores.correct.shape == (450,)
    assert 100 * np.mean(scores.correct) == pytest.approx(
        evaluation.evaluate_bits(work, meta, at(layers, bits)), abs=1e-12)
    assert np.all(scores.losses > 0)


def test_judging_images_are_training_images_that_statistics_do_not_see(searched):
  work, meta = searched
  # An epoch has five batches, and two of them re-estimate statistics.
  for number, used in ((1, 1), (3, 3), (24, 3)):
    assert judge.training_judge(work, meta, number).num_images == used * 256
  work = dataclasses.replace(work, config=copy.deepcopy(work.config))
  work.config.reestimation_batches = 5
  with pytest.raises(UserError, match="config.reestimation_batches is 5; it must be below 5"):
    judge.training_judge(work, meta, 3)


def test_every_baseline_is_measured_and_a_second_start_computes_nothing_again(searched, tmp_path, monkeypatch):
  work, meta = searched
  layers, target = work.network.layers, work.config.arch.target_gbops
  selected = TargetResult(target, layers, 0.1, at(layers, 3), at(layers, 3))
  quality = measure_search_quality(work, meta, BitSelection((selected,)), SETTINGS, tmp_path / "scores.jsonl")
  of_target, = quality.targets
  assert quality.num_images == 450 and set(quality.uniform) == {3, 4, 8}
  assert of_target.selected.bits == at(layers, 3) and of_target.selected == quality.uniform[3]
  assert len(of_target.random) == 6 and quality.num_random_images == 2 * 128
  first = judge.evaluation_judge(work, meta, 2).score(at(layers, 3))
  assert of_target.selected_beside_random.loss == pytest.approx(np.mean(first.losses, dtype=np.float64), abs=1e-12)
  # The selection is cheaper than the tolerance allows, so the random assignments may be as cheap.
  for score in of_target.random:
    assert gbops(layers, uniform_bits(layers, 3)) <= score.gbops <= target
    assert score.gbops == pytest.approx(gbops(layers, complete_bits(layers, score.bits)), rel=1e-12)
  on_evaluation = judge.evaluation_judge(work, meta)
  losses = on_evaluation.score(at(layers, 3)).losses.astype(np.float64)
  assert [comparison.name for comparison in of_target.comparisons] == ["sensitivity", "local search"]
  for comparison in of_target.comparisons:
    low, high = comparison.interval
    assert low <= comparison.difference <= high
    assert comparison.difference == pytest.approx(
        np.mean(losses - on_evaluation.score(comparison.score.bits).losses), abs=1e-12)
    assert comparison.difference == pytest.approx(
        of_target.selected.loss - comparison.score.loss, abs=1e-9)
    assert comparison.score.gbops <= target

  scored = []
  monkeypatch.setattr(
      judge.Judge, "score", lambda self, bits, score=judge.Judge.score: scored.append(bits) or score(self, bits))
  again = measure_search_quality(work, meta, BitSelection((selected,)), SETTINGS, tmp_path / "scores.jsonl")
  # The selection and two baselines, image by image; a judge scores none of them twice.
  assert len({tuple(bits.items()) for bits in scored}) == 3
  assert again.targets == quality.targets and again.uniform == quality.uniform


def test_scores_of_another_meta_state_or_a_cut_file_are_not_used(tmp_path):
  path = tmp_path / "scores.jsonl"
  scores = {"loss": np.array([1.0, 3.0], np.float32), "correct": np.array([True, False])}
  asked = []

  class Counting:
    def score(self, bits):
      asked.append(bits)
      return judge.ImageScores(scores["loss"], scores["correct"])

  first = judge.ScoreFile(path, {"meta_state": "a"})
  assert first.mean_scores("test", Counting(), {"x": 3, "y": 4}) == (2.0, 50.0)
  assert first.mean_scores("test", Counting(), {"x": 3, "y": 4}) == (2.0, 50.0) and len(asked) == 1
  assert first.mean_scores("train", Counting(), {"x": 3, "y": 4}) == (2.0, 50.0) and len(asked) == 2
  whole = path.read_text()
  assert [json.loads(line) for line in whole.splitlines()] == [
      {"meta_state": "a"}, {"judge": "test", "bits": [3, 4], "loss": 2.0, "top1": 50.0},
      {"judge": "train", "bits": [3, 4], "loss": 2.0, "top1": 50.0}]
  for cut in range(len(whole)):
    path.write_text(whole[:cut])
    kept = judge.ScoreFile(path, {"meta_state": "a"})
    asked.clear()
    assert kept.mean_scores("test", Counting(), {"x": 3, "y": 4}) == (2.0, 50.0)
    assert len(asked) == (0 if cut >= len("".join(whole.splitlines(True)[:2])) - 1 else 1)
  path.write_bytes(whole.encode() + b'{"judge": "\xff')
  judge.ScoreFile(path, {"meta_state": "a"})
  assert path.read_text() == whole
  judge.ScoreFile(path, {"meta_state": "b"})
  assert path.read_text() == '{"meta_state": "b"}\n'


def test_scores_that_are_kept_already_are_not_written_again(tmp_path):
  """A start that is killed, or that finds the disk full, must not lose those of hours."""
  path = tmp_path / "scores.jsonl"
  judge.ScoreFile(path, {"meta_state": "a"})
  written = path.stat()
  judge.ScoreFile(path, {"meta_state": "a"})
  assert (path.stat().st_ino, path.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
  scores = judge.ScoreFile(path, {"meta_state": "a"})
  scores.path = pathlib.Path("/dev/full")

  class Any:
    def score(self, bits):
      return judge.ImageScores(np.zeros(1, np.float32), np.array([True]))

  with pytest.raises(UserError, match=r"^'/dev/full' cannot be written \(No space left on device\)"):
    scores.mean_scores("test", Any(), {"x": 3})


def test_bootstrap_interval_of_a_mean():
  values = np.random.default_rng(1).normal(0.5, 2.0, 4000)
  low, high = bootstrap_interval(values, 4000, np.random.default_rng(0))
  error = values.std() / np.sqrt(4000)
  assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
  assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)
