"""Names and numbers of metrics.jsonl, what an interruption leaves of it, event files, alarms."""

import json
import math

import numpy as np
import pytest
import tensorflow as tf

from metamix_jax.data import EventFile
from metamix_jax.method.bops import LayerCost
from metamix_jax.records import metrics
from metamix_jax.records.alarms import EpochWatch, FloorWatch
from metamix_jax.records.metrics_file import MetricsFile

LAYERS = (
    LayerCost("stem", 10, 100, (8,), 8, "conv", "signed"),
    LayerCost("block/a", 20, 50, (3, 8), 4, "conv", "unsigned"),
    LayerCost("b", 30, 30, (3, 8), 4, "depthwise", "unsigned"),
)
STEP_SIZES = {
    "stem": {"activation": np.float32([0.5])},
    "block": {"a": {"activation": np.float32([0.25, 0.1]), "weight": np.float32([0.1, 0.3])}},
    "b": {"activation": np.float32([2, 3])},
}


def test_losses_of_each_bit_width():
  host = {"loss": np.float32(0.1), "loss_by_candidate": np.float32([0.2, 0]), "gbops": np.float32(1)}
  assert metrics.loss_scalars(LAYERS, host) == {"loss": 0.1, "loss/3": 0.2, "loss/8": 0.0}
  assert metrics.loss_scalars(LAYERS, {"loss": np.float32(0.1)}) == {"loss": 0.1}


def test_step_sizes_of_all_candidates_or_of_the_selected_one():
  scalars = lambda bits: metrics.step_size_scalars(metrics.named_step_sizes(LAYERS, STEP_SIZES, bits))
  assert scalars(None) == {
      "step_size/stem/8": 0.5, "step_size/block/a/3": 0.25, "step_size/block/a/8": 0.1, "step_size/b/3": 2.0,
      "step_size/b/8": 3.0, "weight_step_size/block/a": 0.2}  # The mean of 0.1 and 0.3.
  assert list(scalars({"block/a": 8, "b": 3})) == [
      "step_size/stem/8", "step_size/block/a/8", "step_size/b/3", "weight_step_size/block/a"]
  assert metrics.named_step_sizes(LAYERS, {}, None) == {}


def test_search_of_two_targets():
  """Probabilities 1/4, 3/4 and 1/2, 1/2; then 1, 0 (to float32) in both layers, whose entropy is 0 and no NaN."""
  even = {"block/a": np.float32([0, math.log(3)]), "b": np.float32([7, 7])}
  sure = {"block/a": np.float32([1000, 0]), "b": np.float32([1000, 0])}
  scalars = metrics.search_scalars(LAYERS, [
      metrics.TargetMetrics(0.025, even, np.float32(1.5), np.float32(0.03)),
      metrics.TargetMetrics(1.0, sure, 2.5, 1.25)])
  entropy = (0.25 * math.log(4) + 0.75 * math.log(4 / 3) + math.log(2)) / 2
  assert scalars == pytest.approx({
      "search/0.025/loss": 1.5, "search/0.025/gbops": 0.03, "search/0.025/alpha_entropy": entropy,
      "search/0.025/probability/block/a/3": 0.25, "search/0.025/probability/block/a/8": 0.75,
      "search/0.025/probability/b/3": 0.5, "search/0.025/probability/b/8": 0.5,
      "search/1/loss": 2.5, "search/1/gbops": 1.25, "search/1/alpha_entropy": 0.0,
      "search/1/probability/block/a/3": 1.0, "search/1/probability/block/a/8": 0.0,
      "search/1/probability/b/3": 1.0, "search/1/probability/b/8": 0.0}, rel=1e-6, abs=1e-12)


def test_lines_behind_a_checkpoint_and_half_a_line_are_dropped(tmp_path):
  file = MetricsFile(tmp_path)
  lines = [{"phase": phase, "step": step, "loss": 0.5} for phase, step in (("a", 2), ("b", 2), ("b", 4))]
  for line in lines:
    file.append(line)
  with (tmp_path / "metrics.jsonl").open("a") as broken:
    broken.write('{"phase": "b", "step": 6, "lo')
  written = lambda: [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  file.keep("b", 2)
  assert written() == lines[:2]
  file.append(lines[2])
  for phase, step in (("b", 4), ("c", 0)):
    file.keep(phase, step)
    assert written() == lines


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path):
  file = MetricsFile(tmp_path / "gone")
  with pytest.raises(ValueError, match=r"^a, step 2: the metrics cannot be written to \S+gone \(No such file or "
                     r"directory\); what was saved before is whole, and the same command continues from there\.$"):
    file.append({"phase": "a", "step": 2, "loss": 1.0})


def test_event_file_holds_the_same_scalars(tmp_path):
  file = MetricsFile(tmp_path, EventFile(tmp_path / "tensorboard"))
  file.append({"phase": "stage_a", "step": 3, "epoch": 0.5, "loss": 1.5, "step_size/block/a/8": 0.25})
  file.append({"phase": "stage_a", "step": 6, "top1": 99.0})
  path, = (tmp_path / "tensorboard").iterdir()
  assert path.name.startswith("events.out.tfevents.")
  events = [tf.compat.v1.Event.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(path))]
  assert events[0].file_version == "brain.Event:2"  # TensorBoard asks for it.
  written = [(event.step, {value.tag: value.simple_value for value in event.summary.value}) for event in events[1:]]
  assert written == [
      (3, {"stage_a/epoch": 0.5, "stage_a/loss": 1.5, "stage_a/step_size/block/a/8": 0.25}),
      (6, {"stage_a/top1": 99.0})]


def test_bits_that_do_not_move_over_an_epoch():
  """Epochs of three steps; two targets, the second of which moves in the first epoch alone."""
  def alarms(first_step, costs):
    watch = EpochWatch(3, ["0.02", "0.03"])
    found = {step: watch.look_at(step, np.float32(pair)) for step, pair in enumerate(costs, first_step)}
    return {step: alarm for step, alarm in found.items() if alarm}

  words = "no selected bit moved over epoch {} at target {}: argmax alpha cost the same at each of its 3 steps"
  still, moving, again = (1, 5), (1, 6), (2, 5)
  assert alarms(1, [still, moving, still] + 3 * [still]) == {
      3: words.format(1, "0.02"), 6: words.format(2, "0.02, 0.03")}
  # A swing from step to step, the same at every second one; a move from one epoch to the next.
  assert alarms(1, [still, again, moving]) == {}
  assert alarms(1, 3 * [still] + 3 * [(2, 6)] + 3 * [(2, 6)]) == {
      3: words.format(1, "0.02, 0.03"), 9: words.format(3, "0.02, 0.03")}
  # The search begins with the second epoch; a run is continued within it.
  assert alarms(4, 3 * [still]) == {6: words.format(2, "0.02, 0.03")}
  assert alarms(5, 2 * [still] + 3 * [still]) == {9: words.format(3, "0.02, 0.03")}


def test_running_variance_of_each_batch_norm_layer():
  stats = {"stem_norm": {"mean": np.float32([5, 5]), "var": np.float32([1, 2])},
           "block": {"norm": {"mean": np.float32([7]), "var": np.float32([0.5])}}}
  assert metrics.running_variance_scalars(stats) == {
      "running_variance/stem_norm": 1.5, "running_variance/block/norm": 0.5}
  assert metrics.running_variance_scalars({}) == {}


def test_a_step_size_that_stays_at_its_floor():
  watch = FloorWatch(1e-6, 2)
  sizes = lambda a, b: {"step_size/a/3": np.float32(a), "weight_step_size/b": np.float32(b)}
  assert watch.look_at(sizes(1e-6, [1, 2])) is None
  assert watch.look_at(sizes(1e-6, [1, 1e-6])) == "at the floor, 1e-06, in 2 records in a row: step_size/a/3"
  # The second sounds by one of its channels; the first has sounded, and again only after it has left.
  assert watch.look_at(sizes(1e-6, [1, 1e-6])) == "at the floor, 1e-06, in 2 records in a row: weight_step_size/b"
  assert watch.look_at(sizes(2e-6, [1, 1])) is None
  assert watch.look_at(sizes(1e-6, [1, 1])) is None
  assert watch.look_at(sizes(1e-6, [1, 1])) == "at the floor, 1e-06, in 2 records in a row: step_size/a/3"
