"""The rule of the ledger, worked by hand."""

import numpy as np
import pytest

from tests.helpers.claims import verdicts

BETTER = verdicts.Rule(0.0, 0.3)


def judged(differences, rule=BETTER, num_seeds=None):
  statement = verdicts.Statement("something", "points", tuple(differences), rule)
  return statement.verdict(num_seeds or len(differences))


def test_interval_of_five_numbers():
  """1 to 5: mean 3, standard deviation sqrt(10 / 4), so 2.7764 * 1.58114 / sqrt(5) = 1.96319 on both sides."""
  low, high = verdicts.interval_of_mean([1, 2, 3, 4, 5])
  assert (low, high) == (pytest.approx(3 - 1.96319, abs=1e-4), pytest.approx(3 + 1.96319, abs=1e-4))


def test_interval_of_two_numbers():
  """0 and 2: mean 1, standard deviation sqrt(2), so 12.7062 * sqrt(2) / sqrt(2) on both sides."""
  assert verdicts.interval_of_mean([0, 2]) == (pytest.approx(-11.7062), pytest.approx(13.7062))


@pytest.mark.parametrize("number", [0, 1, 12])
def test_other_numbers_of_seeds_have_no_interval(number):
  with pytest.raises(ValueError, match=f"{number} values have no interval here; allowed are 2 to 11"):
    verdicts.interval_of_mean([1.0] * number)


def test_student_t_covers_95_percent():
  """The density (1 + x^2 / n)^(-(n + 1) / 2), summed by the midpoint rule, up to its constant."""
  for freedom, quantile in enumerate(verdicts.STUDENT_T, 1):
    # x = tan(u) turns the whole line into (-pi / 2, pi / 2).
    middle = (np.arange(400_000) + 0.5) / 400_000 * np.pi - np.pi / 2
    x = np.tan(middle)
    weights = (1 + x**2 / freedom) ** (-(freedom + 1) / 2) / np.cos(middle) ** 2
    assert weights[np.abs(x) <= quantile].sum() / weights.sum() == pytest.approx(0.95, abs=2e-5), freedom


def test_the_whole_interval_decides():
  # Three numbers, 0.1 apart, have a standard deviation of 0.1; half the interval is 4.3027 * 0.1 / sqrt(3) = 0.248.
  assert judged([0.9, 1.0, 1.1]) == verdicts.HOLDS  # 1 -+ 0.248.
  assert judged([-0.1, 0.0, 0.1]) == verdicts.DOES_NOT_HOLD  # 0 -+ 0.248, below 0.3.
  assert judged([0.1, 0.2, 0.3]) == verdicts.TOO_SMALL_TO_TELL  # 0.2 -+ 0.248: neither above 0 nor below 0.3.
  assert judged([-1.1, -1.0, -0.9]) == verdicts.DOES_NOT_HOLD
  assert judged([0.19, 0.2, 0.21]) == verdicts.HOLDS  # 0.2 -+ 0.025: small, but certainly above 0.


def test_not_worse_by_more_than_a_margin():
  margin = verdicts.Rule(-0.5, -0.5)
  assert judged([-0.1, 0.0, 0.1], margin) == verdicts.HOLDS  # -0.248 is above -0.5.
  assert judged([-0.5, -0.4, -0.3], margin) == verdicts.TOO_SMALL_TO_TELL
  assert judged([-1.1, -1.0, -0.9], margin) == verdicts.DOES_NOT_HOLD


def test_no_verdict_before_all_seeds_are_run():
  assert judged([0.9, 1.0, 1.1], num_seeds=4) is None
  assert judged([0.9, 1.0, 1.1, 1.0], num_seeds=4) == verdicts.HOLDS


def test_the_line_between_uniform_points():
  points = [(8.0, 81.0), (3.0, 70.0), (4.0, 80.0)]
  assert verdicts.on_the_line(3.0, points) == 70 and verdicts.on_the_line(8.0, points) == 81
  assert verdicts.on_the_line(3.5, points) == 75 and verdicts.on_the_line(6.0, points) == 80.5
  with pytest.raises(ValueError, match="2.9 lies outside of the costs 3 to 8"):
    verdicts.on_the_line(2.9, points)
