"""The notebook docs/walkthrough.ipynb: its cells run in order, and its stored outputs are those of a whole run."""

import json

import pytest

from tests.helpers.files import ROOT

CELLS = [
    cell | {"source": "".join(cell["source"])}
    for cell in json.loads((ROOT / "docs" / "walkthrough.ipynb").read_text(encoding="utf-8"))["cells"]]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


def test_it_is_stored_as_it_was_executed():
  assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
  kinds = [output["output_type"] for cell in CODE for output in cell["outputs"]]
  assert set(kinds) == {"stream", "display_data"}, "no errors, and no warnings of a notebook server"
  assert {output["name"] for cell in CODE for output in cell["outputs"] if "name" in output} == {"stdout"}
  stored = (ROOT / "docs" / "walkthrough.ipynb").read_text(encoding="utf-8")
  assert str(ROOT) not in stored and "/root/" not in stored and "/home/" not in stored


def test_every_cell_is_python_and_its_imports_exist():
  for cell in CODE:
    compile(cell["source"], "docs/walkthrough.ipynb", "exec")
  imports = [line for cell in CODE for line in cell["source"].splitlines() if line.startswith(("import ", "from "))]
  assert len(imports) == 10
  exec("\n".join(imports), {})


@pytest.mark.slow
def test_its_cells_run_in_order(data_dir, monkeypatch):
  """Some ten minutes. The order of the accuracies is the notebook's; its numbers are those of its machine."""
  monkeypatch.chdir(ROOT)
  monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
  monkeypatch.setenv("MPLBACKEND", "agg")
  names = {}
  for cell in CODE:
    exec(compile(cell["source"], "docs/walkthrough.ipynb", "exec"), names)
  uniform = {result.bits: result.top1 for result in names["uniform"]}
  assert uniform[3] < names["selected"] < uniform[8] < names["full_precision"] + 2
  assert names["selected"] < names["final"]
  assert (1 - names["tolerance"]) * 0.07 <= names["cost"] <= 0.07
