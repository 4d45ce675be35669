"""Files of bench.py --json."""

import json
import pathlib
from typing import Any

from metamix_jax.errors import UserError


def read_benchmark(path: pathlib.Path) -> dict[str, Any]:
  """Reads a file of bench.py; raises UserError if it is none."""
  try:
    found = json.loads(path.read_text(encoding="utf-8"))
    steps = {step["step"]: step for step in found["steps"]}
    if any(step["images_per_second"] <= 0 for step in steps.values()):
      raise ValueError("images_per_second is not above 0")
    return {"facts": dict(found["facts"]), "steps": steps}
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(f"{path} is no file of bench.py --json ({type(error).__name__}: {error}).") from error
