"""The results of several runs in one file."""

import json

import pytest

from metamix_jax.errors import UserError
from tests.helpers.files import load_script


def test_a_seed_has_one_entry_and_each_is_written_before_the_next_is_measured(tmp_path):
  seed_results, path, written = load_script("seed_results"), tmp_path / "results.json", []

  def measure_run(folder):
    written.append([entry["value"] for entry in seed_results.read(path)])
    return {"seed": int(folder.name[0]), "value": folder.name}

  with pytest.raises(UserError, match="results.json is missing; measure a run first."):
    seed_results.measure(path, [], measure_run)
  entries = seed_results.measure(path, [tmp_path / name for name in ("2a", "1a", "2b")], measure_run)
  assert written == [[], ["2a"], ["1a", "2a"]]
  assert entries == [{"seed": 1, "value": "1a"}, {"seed": 2, "value": "2b"}]
  assert json.loads(path.read_text()) == {"runs": entries}
  assert seed_results.measure(path, [], measure_run) == entries
