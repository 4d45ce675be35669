"""Two files of the benchmark side by side: ratios of their own runs, and what may not rise."""

import json
import subprocess
import sys

import pytest

from metamix_jax.errors import UserError
from tests.helpers.files import ROOT, load_script

with pytest.MonkeyPatch.context() as patch:
  patch.syspath_prepend(str(ROOT / "scripts" / "benchmarks"))
  compare_benchmarks = load_script("benchmarks/compare_benchmarks")

FACTS = {"network": "digits", "batch_size": 64, "cores": 2}


def write(path, in_f, megabytes, facts=FACTS):
  path.write_text(json.dumps({"facts": facts, "steps": [
      {"step": "F: full precision", "images_per_second": 20, "in_f": 1.0, "in_torch_f": None, "temporaries_mb": 700.0,
       "gflop": 22.0},
      {"step": "bit-meta", "images_per_second": 10, "in_f": in_f, "in_torch_f": None, "temporaries_mb": megabytes,
       "gflop": 70.0}]}))
  return path


def compare(*arguments):
  """Returns the exit status and what the script prints."""
  result = subprocess.run(
      [sys.executable, "scripts/benchmarks/compare_benchmarks.py", *map(str, arguments)], capture_output=True,
      text=True, cwd=ROOT, check=False)
  return result.returncode, result.stdout + result.stderr


def test_what_rises_by_more_than_the_tolerance(tmp_path):
  """From 3 F to 3.4 F is 13.3 % more, from 900 to 950 MB 5.6 % more."""
  before, after = write(tmp_path / "a.json", 3.0, 900.0), write(tmp_path / "b.json", 3.4, 950.0)
  status, text = compare(before, after)
  assert (status, text.splitlines()[2:]) == (1, [
      "| F: full precision | temporaries [MB] | 700 | 700 | +0.0 % |",
      "| F: full precision | GFLOP | 22 | 22 | +0.0 % |",
      "| bit-meta | in F | 3 | 3.4 | +13.3 % |", "| bit-meta | temporaries [MB] | 900 | 950 | +5.6 % |",
      "| bit-meta | GFLOP | 70 | 70 | +0.0 % |", "", "More than 10% above: bit-meta, in F."])
  assert compare(after, before)[0] == 0  # What falls is no fault.
  steps = [compare_benchmarks.read_benchmark(path)["steps"] for path in (before, after)]
  risen = lambda tolerance: compare_benchmarks.risen(compare_benchmarks.changes(*steps), tolerance)
  assert risen(0.2) == [] and risen(0.05) == ["bit-meta, in F", "bit-meta, temporaries [MB]"]


def test_files_of_other_things_are_not_compared(tmp_path):
  before = write(tmp_path / "a.json", 3.0, 900.0)
  after = write(tmp_path / "b.json", 3.0, 900.0, FACTS | {"batch_size": 16})
  with pytest.raises(UserError, match="^batch_size is 64 in the first file and 16 in the second; files of the same"):
    compare_benchmarks.check_comparable(*(compare_benchmarks.read_benchmark(path)["facts"] for path in (before, after)))
  (tmp_path / "c.json").write_text('{"facts": {}, "steps": [1]}')
  with pytest.raises(UserError, match="c.json is no file of bench.py --json .TypeError"):
    compare_benchmarks.read_benchmark(tmp_path / "c.json")
  with pytest.raises(UserError, match="^two files of bench.py --json are needed, the earlier one first"):
    compare_benchmarks.read_arguments(["compare_benchmarks.py", str(before)])


def test_steps_of_one_file_alone_are_left_out():
  steps = {"bit-meta": {"in_f": 3.0, "gflop": None}, "stage A": {"in_f": 1.2}}
  assert compare_benchmarks.changes(steps, {"bit-meta": {"in_f": 2.5, "gflop": 70.0}}) == [
      ("bit-meta", "in_f", 3.0, 2.5)]


def test_files_without_a_step_in_common(tmp_path):
  before = write(tmp_path / "a.json", 3.0, 900.0)
  after = tmp_path / "b.json"
  after.write_text(json.dumps({"facts": FACTS, "steps": [{"step": "stage A", "images_per_second": 3}]}))
  assert compare(before, after) == (
      2, "compare_benchmarks: the two files have no step in common; measure the same steps.\n")
  after.write_text(json.dumps({"facts": FACTS, "steps": [{"step": "stage A", "images_per_second": 0}]}))
  with pytest.raises(UserError, match="b.json is no file of bench.py --json .ValueError: images_per_second is not"):
    compare_benchmarks.read_benchmark(after)
