"""Typed results of the phases, and their JSON in DIR/checkpoints/PHASE.json and DIR/report/summary.json.

The keys of a result in these files are names of fields or properties here. Bits are bits, in memory and on disk.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import pathlib
from typing import Any, TypeVar

from metamix_jax.errors import UserError
from metamix_jax.method.bops import (
    LayerCost,
    average_activation_bits,
    choices,
    complete_bits,
    gbops,
    uniform_bits,
    uniform_widths,
)
from metamix_jax.records.kept_limits import KeptLimit
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
  """Holds the selection of one target, and the accuracy that it reaches.

  Attributes:
    target_gbops: the target, in GBOPs of one image.
    layers: every quantised layer in network order; not in the JSON.
    tolerance: fraction of the target that may stay unused; not in the JSON.
    bits: selected bits of each searched layer, by layer name.
    most_probable_bits: bits of argmax alpha (M13) of each searched layer, whatever they cost.
    meta_state_top1: in percent, straight from the meta-state; None: not evaluated yet.
    stage_a_top1: in percent, after stage A of weight training (M14); None: not trained.
    final_top1: in percent, after stage B of weight training (M14); None: not trained.
    limits: further limits on the selection, with the costs of its bits.
  """

  target_gbops: float
  layers: tuple[LayerCost, ...] = dataclasses.field(repr=False)
  tolerance: float
  bits: Mapping[str, int]
  most_probable_bits: Mapping[str, int]
  meta_state_top1: float | None = None
  stage_a_top1: float | None = None
  final_top1: float | None = None
  limits: tuple[KeptLimit, ...] = ()

  @property
  def all_bits(self) -> dict[str, int]:
    """Returns the selected bits of every quantised layer, in network order."""
    return complete_bits(self.layers, self.bits)

  @property
  def gbops(self) -> float:
    """Returns the cost of the selected bits, in GBOPs of one image."""
    return gbops(self.layers, self.all_bits)

  @property
  def most_probable_gbops(self) -> float:
    """Returns the cost of the most probable bits, in GBOPs of one image."""
    return gbops(self.layers, complete_bits(self.layers, self.most_probable_bits))

  @property
  def average_activation_bits(self) -> float:
    """Returns the average of the selected bits, weighted by the activation elements that each layer reads."""
    return average_activation_bits(self.layers, self.all_bits)

  @property
  def target_met(self) -> bool:
    """Tells whether the cost is at or under the target, within the tolerance."""
    return (1 - self.tolerance) * self.target_gbops <= self.gbops <= self.target_gbops

  @property
  def changed(self) -> dict[str, tuple[int, int]]:
    """Returns {layer name: (most probable bits, selected bits)} of the layers where the two differ."""
    return {
        name: (self.most_probable_bits[name], bits) for name, bits in self.bits.items()
        if bits != self.most_probable_bits[name]}

  def selection_to_json(self) -> dict[str, Any]:
    """Returns the results of the bit selection alone: the target, both assignments, and the limits if there are any."""
    limits = {"limits": [dataclasses.asdict(limit) for limit in self.limits]} if self.limits else {}
    return {"target_gbops": self.target_gbops, "bits": dict(self.bits),
            "most_probable_bits": dict(self.most_probable_bits)} | limits

  def to_json(self) -> dict[str, Any]:
    """Returns TARGET_FIGURES, the derived ones included, and both assignments."""
    return {name: getattr(self, name) for name in TARGET_FIGURES} | self.selection_to_json()

  @classmethod
  def from_json(cls, values: Mapping[str, Any], layers: Sequence[LayerCost], tolerance: float) -> "TargetResult":
    """Builds a result from `to_json` or `selection_to_json`; computes the derived figures from the bits.

    Raises:
      ValueError: a value is missing, has the wrong type, or does not fit the layers.
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
    return cls(target, tuple(layers), tolerance, bits, most_probable_bits, limits=KeptLimit.all_of(values), **top1s)


@dataclasses.dataclass(frozen=True)
class UniformResult:
  """Holds cost and accuracy, straight from the meta-state, with all searched layers at the same bits.

  Attributes:
    bits: bits of every searched layer.
    layers: every quantised layer in network order; not in the JSON.
    top1: in percent, with batch-norm statistics re-estimated for these bits; None: not evaluated yet.
    shared_top1: in percent, with the statistics that all bit-widths share; None: not evaluated yet.
  """

  bits: int
  layers: tuple[LayerCost, ...] = dataclasses.field(repr=False)
  top1: float | None = None
  shared_top1: float | None = None

  @property
  def gbops(self) -> float:
    """Returns the cost in GBOPs of one image."""
    return gbops(self.layers, uniform_bits(self.layers, self.bits))

  @property
  def average_activation_bits(self) -> float:
    """Returns the average bits of all quantised layers, weighted by the activation elements that each layer reads."""
    return average_activation_bits(self.layers, uniform_bits(self.layers, self.bits))

  def to_json(self) -> dict[str, Any]:
    """Returns the bits, their cost and both top-1s."""
    return {name: getattr(self, name) for name in ("bits", "gbops", "top1", "shared_top1")}

  @classmethod
  def from_json(cls, values: Mapping[str, Any], layers: Sequence[LayerCost]) -> "UniformResult":
    """Builds a result from `to_json`; raises ValueError if a value is missing, ill-typed or not allowed."""
    bits = _value(values, "bits")
    if bits not in uniform_widths(layers):
      raise ValueError(f"'bits' is {bits!r}; allowed are {uniform_widths(layers)}")
    return cls(bits, tuple(layers), *(_number(values, name) for name in ("top1", "shared_top1")))


@dataclasses.dataclass(frozen=True)
class ActivationStability:
  """Holds how far statistics move between bit-widths, by batch-norm layer (stability.activation_distance).

  Attributes:
    before: {layer name: distance in standard deviations} before bit-meta training, in network order.
    after: the same after bit-meta training.
  """

  before: Mapping[str, float]
  after: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class BitSelection:
  """Holds the results of the bit selection.

  Attributes:
    targets: the selection of each target, ascending.
    activation_stability: None where the meta-state is that of another run.
  """

  targets: tuple[TargetResult, ...]
  activation_stability: ActivationStability | None = None

  def to_json(self) -> dict[str, Any]:
    """Returns the selections, and the stability if it was measured."""
    stability = self.activation_stability
    return {"targets": [target.selection_to_json() for target in self.targets]} | (
        {"activation_stability": dataclasses.asdict(stability)} if stability else {})

  @classmethod
  def from_json(cls, values: Mapping[str, Any], layers: Sequence[LayerCost], tolerance: float) -> "BitSelection":
    """Builds the results from `to_json`; raises ValueError if a value is missing or ill-typed."""
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
  """Holds top-1s straight from the meta-state.

  Attributes:
    uniform: the result at each uniform bit-width, ascending.
    targets: {target in GBOPs: top-1 in percent of its selected bits}.
  """

  uniform: tuple[UniformResult, ...]
  targets: Mapping[float, float]

  def to_json(self) -> dict[str, Any]:
    """Returns both fields; the key of a target has its first six digits."""
    return {"uniform": [result.to_json() for result in self.uniform],
            "targets": {format_target(target): top1 for target, top1 in self.targets.items()}}

  @classmethod
  def from_json(
      cls, values: Mapping[str, Any], layers: Sequence[LayerCost], targets: Sequence[float]
  ) -> "MetaEvaluation":
    """Builds the results of these targets from `to_json`; raises ValueError if a value is missing or ill-typed."""
    uniform = tuple(UniformResult.from_json(entry, layers) for entry in _list(values, "uniform"))
    top1s = _object(values, "targets")
    return cls(uniform, {target: _number(top1s, format_target(target)) for target in targets})


def check_bits(layers: Sequence[LayerCost], bits: Mapping[str, Any]) -> dict[str, int]:
  """Returns the bits of the searched layers, by layer name, in network order.

  Raises:
    ValueError: a searched layer is missing, a name is unknown, or bits are not among the layer's candidates.
  """
  searched = choices(layers)
  if set(bits) != set(searched):
    odd = min(set(bits) ^ set(searched), key=str)  # A file may hold names that are not strings.
    raise ValueError(
        f"layer {odd!r} is {'unknown' if odd in bits else 'missing'}; it must name the {len(searched)} searched layers")
  for name, candidates in searched.items():
    if type(bits[name]) is not int or bits[name] not in candidates:
      raise ValueError(f"it gives layer {name!r} {bits[name]!r} bits; allowed are {candidates}")
  return {name: bits[name] for name in searched}


def parse_results(
    path: pathlib.Path, parse: Callable[..., Result], *arguments: Any, beside: Sequence[pathlib.Path] = ()
) -> Result:
  """Returns parse(*arguments).

  Args:
    path: the file that the arguments come from.
    parse: raises an exception where the content is wrong.
    *arguments: of `parse`.
    beside: files that it must fit, which may be the damaged ones.

  Raises:
    UserError: the content is damaged; the sentence names the file and the reason.
  """
  try:
    return parse(*arguments)
  except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
    reason = f"{error} is missing" if isinstance(error, KeyError) else str(error).splitlines()[0].rstrip(".")
    raise UserError(f"{path} cannot be read ({reason}); {' or '.join(['it', *map(str, beside)])} is damaged, or "
                    "another version of metamix_jax wrote it.") from error


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
