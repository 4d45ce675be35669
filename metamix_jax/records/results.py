"""What the phases of a run find out: typed, and as the JSON of DIR/checkpoints/PHASE.json and DIR/report/summary.json.

Every key of these files is the name of a field or property here. Bits are bits, in memory and on disk.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import pathlib
from typing import Any, TypeVar

from metamix_jax.errors import UserError
from metamix_jax.method.bops import (
    LayerCost,
    average_activation_bits,
    complete_bits,
    gbops,
    uniform_bits,
    uniform_widths,
)
from metamix_jax.records.names import format_target

Result = TypeVar("Result")

# Fields and properties of a TargetResult that are one number each, in the order of summary.json and of results.csv.
TARGET_FIGURES = (
    "target_gbops", "gbops", "most_probable_gbops", "target_met", "average_activation_bits", "meta_state_top1",
    "stage_a_top1", "final_top1")
# The field of a TargetResult, and the key of the phase's results, that each stage of weight training fills in.
TOP1_OF_STAGE = {"stage_a": "stage_a_top1", "stage_b": "final_top1"}
FULL_PRECISION_TOP1 = "full_precision_top1"  # The key of pretraining's result.


@dataclasses.dataclass(frozen=True)
class TargetResult:
  """What a target selects and reaches.

  Attributes:
    target_gbops: the target, in GBOPs of one image.
    layers: every quantised layer in network order; not in the JSON.
    tolerance: fraction of the target that may stay unused; not in the JSON.
    bits: selected bits of each searched layer.
    most_probable_bits: of each searched layer, argmax alpha (M13), whatever it costs.
    meta_state_top1: in percent, straight from the meta-state; None: not evaluated yet.
    stage_a_top1: in percent, after stage A of weight training (M14); None: not trained, or not yet.
    final_top1: in percent, after stage B; None likewise.
  """

  target_gbops: float
  layers: tuple[LayerCost, ...] = dataclasses.field(repr=False)
  tolerance: float
  bits: Mapping[str, int]
  most_probable_bits: Mapping[str, int]
  meta_state_top1: float | None = None
  stage_a_top1: float | None = None
  final_top1: float | None = None

  @property
  def all_bits(self) -> dict[str, int]:
    """The selected bits of every quantised layer, in network order."""
    return complete_bits(self.layers, self.bits)

  @property
  def gbops(self) -> float:
    """The cost of the selected bits, in GBOPs of one image."""
    return gbops(self.layers, self.all_bits)

  @property
  def most_probable_gbops(self) -> float:
    """The cost of the most probable bits, in GBOPs of one image."""
    return gbops(self.layers, complete_bits(self.layers, self.most_probable_bits))

  @property
  def average_activation_bits(self) -> float:
    """The average of the selected bits, weighted by the activation elements that each layer reads."""
    return average_activation_bits(self.layers, self.all_bits)

  @property
  def target_met(self) -> bool:
    """Tells whether the cost is at or under the target, within the tolerance."""
    return (1 - self.tolerance) * self.target_gbops <= self.gbops <= self.target_gbops

  @property
  def changed(self) -> dict[str, tuple[int, int]]:
    """(most probable, selected) bits of the layers where the two differ."""
    return {
        name: (self.most_probable_bits[name], bits) for name, bits in self.bits.items()
        if bits != self.most_probable_bits[name]}

  def selection_to_json(self) -> dict[str, Any]:
    """Returns what the bit selection alone knows: the target, the selected and the most probable bits."""
    return {"target_gbops": self.target_gbops, "bits": dict(self.bits),
            "most_probable_bits": dict(self.most_probable_bits)}

  def to_json(self) -> dict[str, Any]:
    """Returns every figure, the derived ones included, and both assignments."""
    return {name: getattr(self, name) for name in TARGET_FIGURES} | self.selection_to_json()

  @classmethod
  def from_json(cls, values: Mapping[str, Any], layers: Sequence[LayerCost], tolerance: float) -> "TargetResult":
    """Builds a result from `to_json` or `selection_to_json`; figures that follow from the bits are computed anew.

    Raises:
      ValueError: a value is missing, has the wrong type, or does not fit the layers; one sentence.
    """
    target = _number(values, "target_gbops")
    assignments = []
    for key in ("bits", "most_probable_bits"):
      try:
        assignments.append(check_bits(layers, _object(values, key)))
      except ValueError as error:
        raise ValueError(f"target {format_target(target)}, {key}: {error}") from error
    bits, most_probable_bits = assignments
    top1s = {name: _number_or_none(values, name) for name in ("meta_state_top1", *TOP1_OF_STAGE.values())}
    return cls(target, tuple(layers), tolerance, bits, most_probable_bits, **top1s)


@dataclasses.dataclass(frozen=True)
class UniformResult:
  """What all searched layers at the same bits cost and reach, straight from the meta-state.

  Attributes:
    bits: of every searched layer.
    layers: every quantised layer in network order; not in the JSON.
    top1: in percent, with batch-norm statistics re-estimated for these bits; None: not evaluated yet.
    shared_top1: in percent, with the statistics that all bit-widths share; None likewise.
  """

  bits: int
  layers: tuple[LayerCost, ...] = dataclasses.field(repr=False)
  top1: float | None = None
  shared_top1: float | None = None

  @property
  def gbops(self) -> float:
    """The cost in GBOPs of one image."""
    return gbops(self.layers, uniform_bits(self.layers, self.bits))

  @property
  def average_activation_bits(self) -> float:
    """The average over all quantised layers, weighted by the activation elements that each reads."""
    return average_activation_bits(self.layers, uniform_bits(self.layers, self.bits))

  def to_json(self) -> dict[str, Any]:
    """Returns the bits, their cost and both top-1s."""
    return {name: getattr(self, name) for name in ("bits", "gbops", "top1", "shared_top1")}

  @classmethod
  def from_json(cls, values: Mapping[str, Any], layers: Sequence[LayerCost]) -> "UniformResult":
    """Builds a result from `to_json`; raises ValueError, one sentence, for a missing, ill-typed or foreign value."""
    bits = _value(values, "bits")
    if bits not in uniform_widths(layers):
      raise ValueError(f"'bits' is {bits!r}; allowed are {uniform_widths(layers)}")
    return cls(bits, tuple(layers), *(_number(values, name) for name in ("top1", "shared_top1")))


@dataclasses.dataclass(frozen=True)
class ActivationStability:
  """How far statistics move between bit-widths, by batch-norm layer in network order (stability.activation_distance).

  Attributes:
    before: bit-meta training, in standard deviations.
    after: bit-meta training.
  """

  before: Mapping[str, float]
  after: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class BitSelection:
  """The results of the bit selection.

  Attributes:
    targets: what each target selects, ascending.
    activation_stability: None where there was no search.
  """

  targets: tuple[TargetResult, ...]
  activation_stability: ActivationStability | None = None

  def to_json(self) -> dict[str, Any]:
    """Returns the selections, and the stability where there is one."""
    stability = self.activation_stability
    return {"targets": [target.selection_to_json() for target in self.targets]} | (
        {"activation_stability": dataclasses.asdict(stability)} if stability else {})

  @classmethod
  def from_json(cls, values: Mapping[str, Any], layers: Sequence[LayerCost], tolerance: float) -> "BitSelection":
    """Builds the results from `to_json`; raises ValueError, one sentence, for what is missing or ill-typed."""
    targets = tuple(TargetResult.from_json(entry, layers, tolerance) for entry in _list(values, "targets"))
    if "activation_stability" not in values:
      return cls(targets)
    stability = _object(values, "activation_stability")
    distances = [_object(stability, field.name) for field in dataclasses.fields(ActivationStability)]
    for distance in distances:
      for name in distances[0]:
        _number(distance, name)
    return cls(targets, ActivationStability(*distances))


@dataclasses.dataclass(frozen=True)
class MetaEvaluation:
  """Top-1s straight from the meta-state.

  Attributes:
    uniform: one for each uniform bit-width, ascending.
    targets: top-1 in percent of the bits that each target selects, by the target in GBOPs.
  """

  uniform: tuple[UniformResult, ...]
  targets: Mapping[float, float]

  def to_json(self) -> dict[str, Any]:
    """Returns both; a target's key is its first six digits."""
    return {"uniform": [result.to_json() for result in self.uniform],
            "targets": {format_target(target): top1 for target, top1 in self.targets.items()}}

  @classmethod
  def from_json(
      cls, values: Mapping[str, Any], layers: Sequence[LayerCost], targets: Sequence[float]
  ) -> "MetaEvaluation":
    """Builds the results for some targets from `to_json`; raises ValueError, one sentence, for what is missing."""
    uniform = tuple(UniformResult.from_json(entry, layers) for entry in _list(values, "uniform"))
    top1s = _object(values, "targets")
    return cls(uniform, {target: _number(top1s, format_target(target)) for target in targets})


def check_bits(layers: Sequence[LayerCost], bits: Mapping[str, Any]) -> dict[str, int]:
  """Returns the bits of the searched layers in network order.

  Raises:
    ValueError: a searched layer is missing, a name is unknown, or bits are not among the layer's candidates.
  """
  searched = {layer.name: layer for layer in layers if layer.searched}
  if set(bits) != set(searched):
    odd = sorted(set(bits) ^ set(searched))[0]
    raise ValueError(
        f"layer {odd!r} is {'unknown' if odd in bits else 'missing'}; it must name the {len(searched)} searched layers")
  for name, layer in searched.items():
    if type(bits[name]) is not int or bits[name] not in layer.candidate_bits:
      raise ValueError(f"it gives layer {name!r} {bits[name]!r} bits; allowed are {layer.candidate_bits}")
  return {name: bits[name] for name in searched}


def parse_results(path: pathlib.Path, parse: Callable[..., Result], *arguments: Any) -> Result:
  """Returns parse(*arguments), where the arguments come from a file of the run.

  Raises:
    UserError: `parse` raised what damaged content raises; the sentence names the file and the reason.
  """
  try:
    return parse(*arguments)
  except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
    reason = f"{error} is missing" if isinstance(error, KeyError) else str(error).splitlines()[0].rstrip(".")
    raise UserError(
        f"{path} cannot be read ({reason}); it is damaged, or another version of metamix_jax wrote it.") from error


def _value(values, name):
  if not isinstance(values, Mapping):
    raise ValueError(f"{name!r} is looked for in {values!r}, which is not a JSON object")
  if name not in values:
    raise ValueError(f"{name!r} is missing")
  return values[name]


def _number(values: Any, name: str) -> float:
  value = _value(values, name)
  if isinstance(value, bool) or not isinstance(value, (int, float)):
    raise ValueError(f"{name!r} is {value!r}; it must be a number")
  return value


def _number_or_none(values: Any, name: str) -> float | None:
  return None if values.get(name) is None else _number(values, name)


def _object(values, name):
  if not isinstance(_value(values, name), Mapping):
    raise ValueError(f"{name!r} is {values[name]!r}; it must be a JSON object")
  return values[name]


def _list(values, name):
  if not isinstance(_value(values, name), (list, tuple)):
    raise ValueError(f"{name!r} is {values[name]!r}; it must be a list")
  return values[name]
