"""A limit on a cost besides the target's, with what a selection costs."""

from collections.abc import Mapping
import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class KeptLimit:
  """Holds a limit on a cost besides the target's, and what the bits cost.

  Attributes:
    name: of the cost.
    unit: of one image.
    most: the limit, in this unit.
    cost: of the bits, in this unit.
  """

  name: str
  unit: str
  most: float
  cost: float

  def __str__(self) -> str:
    """Returns the cost and its limit in words."""
    return f"{self.name} {self.cost:.6g} of {self.most:.6g} {self.unit}"

  @classmethod
  def from_json(cls, values: Mapping[str, Any]) -> "KeptLimit":
    """Builds a limit from dataclasses.asdict; raises KeyError, TypeError or ValueError if a value does not fit."""
    return cls(str(values["name"]), str(values["unit"]), float(values["most"]), float(values["cost"]))

  @classmethod
  def all_of(cls, values: Mapping[str, Any]) -> "tuple[KeptLimit, ...]":
    """Builds the limits under "limits" of a target's JSON; () where it has none. Raises as `from_json`."""
    return tuple(map(cls.from_json, values.get("limits", ())))
