"""The rule of the ledger: from one number a seed to "holds", "does not hold" or "too small to tell".

A statement is a difference that is positive where the paper is right, in points of top-1, in percent, in bits or in
nats; one number a seed. Its mean has a 95 % interval: mean -+ t * s / sqrt(n), with Student's t for n - 1 degrees of
freedom and the standard deviation s over the n seeds. A rule has two numbers, which a config of configs/ledger states
before the runs:

  holds               the whole interval is above `holds_above`
  does not hold       otherwise, and the whole interval is below `fails_below`
  too small to tell   otherwise

`fails_below` is the smallest difference that is worth having: a statement whose difference is certainly smaller does
not hold. The first statement of a claim is its verdict, and the others stand beside it. A claim has a verdict when all
of its seeds are run, and not before: nobody can stop at a lucky seed.
"""

from collections.abc import Sequence
import dataclasses
import math
import statistics

HOLDS, DOES_NOT_HOLD, TOO_SMALL_TO_TELL = "holds", "does not hold", "too small to tell"
# 97.5th percentiles of Student's t, for 1, 2, ... degrees of freedom: a claim has from two to eleven seeds.
STUDENT_T = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)


@dataclasses.dataclass(frozen=True)
class Rule:
  """Holds what a statement is judged by, in the unit of its differences."""

  holds_above: float
  fails_below: float


@dataclasses.dataclass(frozen=True)
class Statement:
  """Holds one statement and its difference for each seed.

  Attributes:
    words: the statement.
    unit: of the differences.
    differences: one for each seed that was run.
    rule: what it is judged by.
  """

  words: str
  unit: str
  differences: tuple[float, ...]
  rule: Rule

  @property
  def mean(self) -> float:
    """Returns the mean over the seeds."""
    return statistics.fmean(self.differences)

  @property
  def interval(self) -> tuple[float, float]:
    """Returns the 95 % interval of the mean; raises ValueError for fewer than two or more than eleven seeds."""
    return interval_of_mean(self.differences)

  def verdict(self, num_seeds: int) -> str | None:
    """Returns the verdict; None before all of `num_seeds` seeds are run."""
    if len(self.differences) < num_seeds:
      return None
    low, high = self.interval
    if low > self.rule.holds_above:
      return HOLDS
    return DOES_NOT_HOLD if high < self.rule.fails_below else TOO_SMALL_TO_TELL


def interval_of_mean(values: Sequence[float]) -> tuple[float, float]:
  """Returns the 95 % interval of the mean of independent values, by Student's t.

  Raises:
    ValueError: there are fewer than two values, or more than eleven.
  """
  freedom = len(values) - 1
  if not 1 <= freedom <= len(STUDENT_T):
    raise ValueError(f"{len(values)} values have no interval here; allowed are 2 to {len(STUDENT_T) + 1}.")
  half = STUDENT_T[freedom - 1] * statistics.stdev(values) / math.sqrt(len(values))
  mean = statistics.fmean(values)
  return mean - half, mean + half


def on_the_line(cost: float, points: Sequence[tuple[float, float]]) -> float:
  """Returns the accuracy at a cost on the straight lines between points (cost, accuracy), in any order.

  Raises:
    ValueError: the cost lies outside of the points.
  """
  points = sorted(points)
  for (low, at_low), (high, at_high) in zip(points, points[1:], strict=False):
    if low <= cost <= high:
      return at_low + (at_high - at_low) * (cost - low) / (high - low)
  raise ValueError(f"{cost:.6g} lies outside of the costs {points[0][0]:.6g} to {points[-1][0]:.6g}.")
