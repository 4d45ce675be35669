"""The results of runs in one JSON file, an entry for each seed: what several measurements of the evidence share."""

from collections.abc import Callable, Iterable
import json
import pathlib
from typing import Any

from metamix_jax.errors import UserError
from metamix_jax.records.files import write_json


def read(path: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the entries of a file, {"runs": [{"seed", ...}]}; none if there is no file yet."""
  return json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []


def measure(
    path: pathlib.Path, folders: Iterable[pathlib.Path], measure_run: Callable[[pathlib.Path], dict[str, Any]]
) -> list[dict[str, Any]]:
  """Measures runs, and writes the file after each of them.

  Args:
    path: of the file; an entry of a run's seed is replaced.
    folders: of the runs; none: the entries stay as they are.
    measure_run: folder -> entry for JSON, with "seed".

  Returns:
    All entries, by seed.

  Raises:
    UserError: there are no entries, and no run to measure.
  """
  entries = read(path)
  for folder in folders:
    entry = measure_run(folder)
    entries = sorted([other for other in entries if other["seed"] != entry["seed"]] + [entry], key=lambda e: e["seed"])
    write_json(path, {"runs": entries})
  if not entries:
    raise UserError(f"{path} is missing; measure a run first.")
  return entries
