"""The quality of a search, and its JSON in DIR/report/search_quality.json."""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import pathlib
from typing import Any

from metamix_jax.method.bops import LayerCost, complete_bits, gbops
from metamix_jax.records.names import format_target
from metamix_jax.records.results import TargetResult, check_bits, parse_results

# A selection that beats fewer random assignments is no better than chance: one random assignment in twenty beats more.
CHANCE_PERCENT = 95.0
# Of a run's folder.
FILE = pathlib.PurePath("report", "search_quality.json")


@dataclasses.dataclass(frozen=True)
class AssignmentScore:
  """Holds an assignment and how good it is straight from the meta-state, on the evaluation split.

  Attributes:
    bits: of each searched layer, by layer name.
    gbops: cost of one image.
    loss: mean cross-entropy to the labels, in nats.
    top1: in percent.
  """

  bits: Mapping[str, int]
  gbops: float
  loss: float
  top1: float

  @classmethod
  def from_json(cls, values: Mapping[str, Any], layers: Sequence[LayerCost]) -> "AssignmentScore":
    """Builds a score from its fields; raises KeyError, TypeError or ValueError if one is missing or wrong."""
    bits = check_bits(layers, values["bits"])
    return cls(bits, gbops(layers, complete_bits(layers, bits)), float(values["loss"]), float(values["top1"]))


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Holds a baseline beside the selection.

  Attributes:
    name: of the baseline.
    score: of its assignment.
    difference: mean loss of the selection minus the baseline's, in nats; below 0 the selection is better.
    interval: 95 % interval of the difference, from a bootstrap over pairs of losses on the same images.
    beside_random: the score on the images that random assignments are judged on.
  """

  name: str
  score: AssignmentScore
  difference: float
  interval: tuple[float, float]
  beside_random: AssignmentScore


@dataclasses.dataclass(frozen=True)
class TargetQuality:
  """Holds the quality of the selection for one target.

  Attributes:
    target_gbops: the target, in GBOPs of one image.
    selected: the score of the selection on the whole evaluation split.
    comparisons: sensitivity and local search, on the whole evaluation split.
    selected_beside_random: the score of the selection on the images that random assignments are judged on.
    random: scores of random assignments whose cost is within the tolerance of the target.
  """

  target_gbops: float
  selected: AssignmentScore
  comparisons: tuple[Comparison, ...]
  selected_beside_random: AssignmentScore
  random: tuple[AssignmentScore, ...]

  @property
  def percent_beaten(self) -> float:
    """Returns the share of random assignments with a higher loss than the selection, in percent."""
    return 100 * sum(score.loss > self.selected_beside_random.loss for score in self.random) / len(self.random)

  @property
  def better_than_chance(self) -> bool:
    """Tells whether the selection beats at least CHANCE_PERCENT of the random assignments."""
    return self.percent_beaten >= CHANCE_PERCENT

  @property
  def verdict(self) -> str:
    """Returns the share of beaten random assignments in words."""
    share = f"beats {self.percent_beaten:.3g} % of {len(self.random)} random assignments of the same cost"
    return share if self.better_than_chance else f"no better than chance: {share}"


@dataclasses.dataclass(frozen=True)
class SearchQuality:
  """Holds the quality of the search for every target.

  Attributes:
    targets: ascending.
    uniform: {bits: score} with all searched layers at the same bits.
    num_images: images of the evaluation split.
    num_random_images: images that random assignments are judged on.
    settings: of configs/search_quality.py.
    seconds: {part: seconds of computing}, over all starts.
  """

  targets: tuple[TargetQuality, ...]
  uniform: Mapping[int, AssignmentScore]
  num_images: int
  num_random_images: int
  settings: Mapping[str, Any]
  seconds: Mapping[str, float]

  def is_of(self, results: Sequence[TargetResult]) -> bool:
    """Tells whether it measures these selections: the same targets, with the same bits."""
    measured = {target.target_gbops: target.selected.bits for target in self.targets}
    return measured == {result.target_gbops: result.bits for result in results}

  def to_json(self) -> dict[str, Any]:
    """Returns all fields, and the verdict of each target."""
    return dataclasses.asdict(self) | {
        "targets": [
            dataclasses.asdict(target) | {"percent_beaten": target.percent_beaten, "verdict": target.verdict}
            for target in self.targets],
        "uniform": {str(bits): dataclasses.asdict(score) for bits, score in self.uniform.items()}}


def verdict_of_interval(low: float, high: float) -> str:
  """Returns "better" or "worse" where the interval of a difference in loss leaves 0 out, else "equal"."""
  return "better" if high < 0 else "worse" if low > 0 else "equal"


def read_search_quality(workdir: pathlib.Path, layers: Sequence[LayerCost]) -> SearchQuality | None:
  """Reads DIR/report/search_quality.json; None if it does not exist.

  Raises:
    UserError: the file is damaged, or it does not fit the layers.
  """
  path = workdir / FILE
  if not path.exists():
    return None
  return parse_results(
      path, lambda: _parse(json.loads(path.read_text(encoding="utf-8")), layers), beside=(workdir / "network.json",))


def _parse(values, layers):
  def score(entry):
    return AssignmentScore.from_json(entry, layers)

  targets = tuple(
      TargetQuality(
          float(entry["target_gbops"]), score(entry["selected"]),
          tuple(
              Comparison(
                  str(comparison["name"]), score(comparison["score"]), float(comparison["difference"]),
                  (float(comparison["interval"][0]), float(comparison["interval"][1])),
                  score(comparison["beside_random"]))
              for comparison in entry["comparisons"]),
          score(entry["selected_beside_random"]), tuple(map(score, entry["random"])))
      for entry in values["targets"])
  for target in targets:
    if not target.random:
      raise ValueError(f"target {format_target(target.target_gbops)} has no random assignments")
  return SearchQuality(
      targets, {int(bits): score(entry) for bits, entry in values["uniform"].items()}, int(values["num_images"]),
      int(values["num_random_images"]), dict(values["settings"]),
      {name: float(seconds) for name, seconds in values["seconds"].items()})
