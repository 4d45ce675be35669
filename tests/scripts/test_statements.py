"""From results to the statements of each claim, worked by hand."""

import math

import pytest

from tests.helpers.claims import results, statements, verdicts

RULE = verdicts.Rule(0.0, 0.3)
RULES = dict.fromkeys((
    "line", "random", "sensitivity", "trained", "loss", "distance", "movement", "reaches", "same_epochs", "others",
    "middle", "gain", "same_passes", "seconds", "meta_state", "weights", "bits", "spent", "alone",
    "time"), RULE)


def differences(letter, seeds, **arguments):
  return [list(statement.differences) for statement in statements.STATEMENTS[letter](seeds, RULES, **arguments)]


def arm(top1, gbops=0.07):
  return {"top1": top1, "gbops": gbops}


def test_mixed_against_uniform():
  seed = {
      "selected": arm(79.0, 0.07), "uniform_3": arm(74.0, 0.06), "uniform_4": arm(80.0, 0.08),
      "random_0": arm(76.0), "random_1": arm(77.0), "sensitivity": arm(79.5)}
  dearer = seed | {"selected": arm(80.0, 0.075)}
  for letter in "ai":
    # At 0.07 the line is at 77, at 0.075 at 78.5.
    assert differences(letter, [seed, dearer]) == [
        [pytest.approx(2.0), pytest.approx(1.5)], [2.5, 3.5], [-0.5, 0.5]]


def test_spent_target():
  seed = {"spent": arm(79.25), "selected": arm(79.0), "sensitivity": arm(79.5)}
  assert differences("j", [seed]) == [[-0.25], [0.25]]


def test_fixed_against_moving():
  seed = {"fixed": arm(80.0), "moving": arm(79.5), "loss_on_fixed_meta_state": {"fixed": 0.75, "moving": 0.875}}
  assert differences("b", [seed]) == [[0.5], [0.125]]


def test_weights_that_moved():
  seed = {"fixed": arm(80.0), "moving": arm(80.5), "moving_bits": arm(79.75), "fixed_spent": arm(81.0),
          "moving_spent": arm(80.25)}
  assert differences("k", [seed]) == [[0.75], [0.25], [0.75]]


def test_searched_weights():
  """The line at 0.075 is 76 + 4 * 3 / 4 = 79. Iterations take 0.5 s and 0.75 s, a quarter less than twice 0.5 s."""
  seed = {
      "activations_alone": arm(79.5), "activations_and_weights": arm(79.75, 0.075), "uniform_3": arm(76.0, 0.06),
      "uniform_4": arm(80.0, 0.08), "seconds_of_a_step": {
          "bit_meta_alone": 0.375, "bit_search_alone": 0.125, "bit_meta_both": 0.5, "bit_search_both": 0.25}}
  assert differences("l", [seed]) == [[0.25], [pytest.approx(0.75)], [pytest.approx(25)]]


def test_all_epochs():
  seed = {"method": arm(80.0), "together": arm(80.5), "quantized": arm(79.75), "full_precision": arm(80.25)}
  assert differences("m", [seed]) == [[-0.5], [0.25], [-0.25]]


def test_kept_targets():
  seed = {"selected": arm(80.0), "kept_classes": arm(80.5), "repeated_crops": arm(79.75)}
  assert differences("n", [seed]) == [[0.5], [-0.25]]


def test_before_weight_training():
  seed = {"loss_on_meta_state": {"selected": 1.5, "sensitivity": 1.375}}
  assert differences("o", [seed]) == [[0.125]]


def test_activation_statistics():
  """From a mean distance of 0.4 to 0.1, 75 % less; the stem, whose input is not searched, does not count."""
  seed = {
      "distance": {"before": {"stem": 0, "a": 0.2, "b": 0.6}, "after": {"stem": 0, "a": 0.05, "b": 0.15}},
      "movement": {"with": {"a": 1.0, "b": 3.0}, "without": {"a": 4.0, "b": 6.0}},
      "depthwise_running_variance": {"with": {"layers": {"b": []}}}}
  # All layers: from 5 to 2, 60 % less; the depthwise one: from 6 to 3.
  assert differences("c", [seed]) == [[pytest.approx(75)], [pytest.approx(60)], [pytest.approx(50)]]


def test_movement_from_epoch_to_epoch():
  """Means of ln v of three epochs of two steps: 0, ln 2 and ln 2 / 2."""
  found = statements.movement([1, 2, 3, 4, 5, 6], [0.5, 2.0, 2.0, 2.0, 1.0, 2.0], 2)
  assert found == pytest.approx(100 * (math.log(2) + math.log(2) / 2) / 2)
  assert statements.movement([2, 4], [3.0, 3.0], 2) == 0


def test_quarter_of_the_epochs():
  seed = {
      "meta_state_quarter": arm(80.0), "full_precision_all": arm(80.5), "full_precision_quarter": arm(78.0)}
  assert differences("d", [seed, seed]) == [[-0.5, -0.5], [2.0, 2.0]]


def test_full_precision_weights():
  seed = {
      "distance": {"full_precision": {"a": 0.1, "b": 0.2}, "quantized": {"a": 0.2, "b": 0.4}},
      "full_precision": arm(80.0), "quantized": arm(80.25)}
  assert differences("e", [seed]) == [[pytest.approx(50)], [-0.25]]


def test_where_high_bits_land():
  """Depthwise 8, 4, 3, 4, 8 with two early and one late: a mean of 20 / 3; others 3, 4 and the middle 3, 4."""
  seed = {
      "kinds": {"d0": "depthwise", "c0": "conv", "d1": "depthwise", "d2": "depthwise", "c1": "conv",
                "d3": "depthwise", "d4": "depthwise"},
      "bits": {"0.09": {"d0": 8, "c0": 3, "d1": 4, "d2": 3, "c1": 4, "d3": 4, "d4": 8}}}
  assert differences("f", [seed], early=2, late=1, target="0.09") == [
      [pytest.approx(20 / 3 - 3.5)], [pytest.approx(20 / 3 - 3.5)]]


def test_cost_of_search():
  seed = {
      "method": arm(80.0), "together": arm(79.0), "steps": {"bit_meta": 600, "bit_search": 400, "joint": 2200},
      "seconds_of_a_step": {"bit_meta": 0.5, "bit_search": 0.25, "joint": 0.25}}
  assert statements.search_seconds(seed) == (400.0, 550.0)
  assert differences("g", [seed]) == [[1.0], [pytest.approx(100 * 150 / 550)]]


def test_mean_against_last():
  seed = {
      "mean": arm(80.0), "last": arm(78.0), "meta_state_top1": {"mean": 78.0, "last": 60.0},
      "uniform_top1": {"mean": {"3": 72.0, "4": 79.0, "8": 81.0}, "last": {"3": 22.0, "4": 50.0, "8": 81.5}}}
  assert differences("h", [seed]) == [[2.0], [18.0], [50.0]]
  # The lowest of 2, 4, 8 and 10 bits, by number and not by letter.
  for which in ("mean", "last"):
    seed["uniform_top1"][which] = {"10": 80.0, "2": 30.0 if which == "mean" else 20.0}
  assert differences("h", [seed])[2] == [10.0]


def test_every_config_has_the_rules_and_arguments_of_its_claim():
  """A statement that has no rule in its config, or a rule that no statement reads, is found here."""
  assert set(results.claim_configs()) == set(statements.STATEMENTS)
  for letter, claim in results.read_claims().items():
    read = set()

    class Rules(dict):
      def __getitem__(self, name, read=read):
        read.add(name)
        return super().__getitem__(name)

    rules = Rules({name: verdicts.Rule(*numbers) for name, numbers in claim.config.rules.items()})
    statements.STATEMENTS[letter]([], rules, **claim.config.arguments)
    assert read == set(rules), letter
    assert all(rule.holds_above <= rule.fails_below for rule in rules.values())
    assert claim.config.title and claim.config.minutes > 0 and len(set(claim.config.seeds)) == 5
