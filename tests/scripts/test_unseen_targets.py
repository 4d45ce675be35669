"""What forgetting searches costs: which are kept, what is compared, and the table."""

import numpy as np
import pytest

from metamix_jax.method.bops import complete_bits, gbops
from metamix_jax.method.selection import alpha_for_target, select_within_target
from metamix_jax.records.alpha import read_alpha
from metamix_jax.reporting import saved_run
from metamix_jax.training.judge import ImageScores
from tests.helpers.configs import digits_config
from tests.helpers.files import load_script
from tests.helpers.saved_runs import write_run

TARGETS = (0.021, 0.023, 0.025, 0.028, 0.032)


@pytest.fixture
def script():
  return load_script("unseen_targets")


def test_kept_searches(script):
  assert script.kept_searches(list(range(10))) == {
      "every second and the last": [0, 2, 4, 6, 8, 9], "every fourth and the last": [0, 4, 8, 9],
      "every eighth and the last": [0, 8, 9], "the first and the last": [0, 9], "the middle one": [5]}
  assert list(script.kept_searches(list(TARGETS))) == [  # Every fourth and the last are the first and the last.
      "every second and the last", "the first and the last", "the middle one"]


def test_chosen_bits_are_compared_with_searched_ones_image_by_image(script, tmp_path):
  """A judge to whom an assignment's loss is ten times its cost, on four images that differ by constants."""
  config = digits_config()
  config.arch.target_gbops = TARGETS
  write_run(tmp_path, config, 10, 1)
  run = saved_run.read(tmp_path)

  def score(bits):
    cost = gbops(run.layers, complete_bits(run.layers, bits))
    return ImageScores(np.float32(10 * cost + np.arange(4)), np.array([True, True, True, cost > 0.025]))

  results = script.compare(run, score, 100)
  own = {target.target_gbops: target for target in run.target_results}
  assert {name: values["gbops"] for name, values in results["own"].items()} == {
      f"{target:g}": own[target].gbops for target in TARGETS}
  assert results["own"]["0.032"]["top1"] == 100 and results["own"]["0.021"]["top1"] == 75
  ends = results["kept"]["the first and the last"]
  assert ends["searches"] == [0.021, 0.032]
  assert [entry["target"] for entry in ends["forgotten"]] == [0.023, 0.025, 0.028]
  alpha = read_alpha(tmp_path, run.layers)
  for entry in ends["forgotten"]:
    target = entry["target"]
    bits = select_within_target(
        run.layers, alpha_for_target({end: alpha[end] for end in (0.021, 0.032)}, target), target,
        config.arch.target_tolerance)
    cost = gbops(run.layers, complete_bits(run.layers, bits))
    assert entry["gbops"] == cost and entry["searches"] == [0.021, 0.032]
    assert entry["distance"] == pytest.approx(min(target - 0.021, 0.032 - target) / target)
    assert entry["difference"] == pytest.approx(10 * (cost - own[target].gbops), abs=1e-6)
    assert entry["interval"] == pytest.approx([entry["difference"]] * 2, abs=1e-6)  # The same for every image.
  assert {len(kept["forgotten"]) for kept in results["kept"].values()} == {2, 3, 4}


def test_the_table(script):
  def entry(target, distance, difference, interval, top1):
    return {"target": target, "distance": distance, "difference": difference, "interval": interval, "top1": top1}

  results = {
      "own": {"1": {"top1": 80.0}, "2": {"top1": 82.0}, "3": {"top1": 84.0}},
      "kept": {"some": {"searches": [4.0, 5.0], "forgotten": [
          entry(1.0, 0.03, 0.01, (0.004, 0.016), 79.0), entry(2.0, 0.06, -0.02, (-0.03, -0.01), 82.5),
          entry(3.0, 0.124, 0.004, (-0.01, 0.02), 84.2)]}}}
  assert script.table(results).splitlines()[2:] == [
      "| some | 2 | 3 | 12 % | -0.0020, +0.0100 | -0.10 | 1, 1, 1 |"]
