"""Bits of single layers, by patterns of their names: candidates, a pin, or full precision [A].

In a pattern `*` stands for any text, slashes included, `?` for one character, and `[ab]` for one of several (fnmatch).
Of several patterns that match a layer the most specific one decides: the one with the most other characters, then the
one with the fewest wildcards. Their order means nothing, for ml_collections does not keep it.
"""

from collections.abc import Sequence
import fnmatch
import re
from typing import TypeAlias

from metamix_jax.errors import UserError

# Candidates of the activations; bits of activations and weights; or None, full precision.
BitsOfLayer: TypeAlias = tuple[int, ...] | int | None
# (pattern, bits), each pattern once.
LayerBits: TypeAlias = tuple[tuple[str, BitsOfLayer], ...]


def deciding_pattern(layer_bits: LayerBits, name: str) -> str | None:
  """Returns the pattern that decides over a layer; None if none matches its name.

  Raises:
    UserError: two patterns match and are equally specific.
  """
  matching = sorted((pattern for pattern, _ in layer_bits if fnmatch.fnmatchcase(name, pattern)), key=_specificity)
  if len(matching) > 1 and _specificity(matching[-1]) == _specificity(matching[-2]):
    first, second = sorted(matching[-2:])
    raise UserError(
        f"config.quantization.layer_bits has the patterns {first!r} and {second!r}, which both match layer {name} and "
        "are equally specific; the pattern that is meant must have more characters besides wildcards.")
  return matching[-1] if matching else None


def patterns_that_match_nothing(layer_bits: LayerBits, names: Sequence[str]) -> list[str]:
  """Returns the patterns that match none of the names, whether or not another pattern decides."""
  return [pattern for pattern, _ in layer_bits if not any(fnmatch.fnmatchcase(name, pattern) for name in names)]


def _specificity(pattern):
  """Returns (number of characters besides wildcards, minus the number of wildcards)."""
  characters, wildcards = re.subn(r"\[[^]]*\]|[*?]", "", pattern)
  return len(characters), -wildcards
