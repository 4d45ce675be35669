"""The rules of the house: which part of the package may import which, and how large a file may be."""

import ast
import pathlib
import pkgutil
import subprocess
import sys

import pytest

from tests.helpers.files import PACKAGE, ROOT

TOP_LEVEL = {"__init__", "main", "experiment", "config", "config_file", "field_rules", "command_line", "errors"}
# What the files of each wing may import of the package, besides their own wing; functions' imports count as well.
ALLOWED = {
    "method": ("errors",),
    "nn": ("method", "errors"),
    "models": ("nn", "method", "errors"),
    "data": ("records", "config", "errors"),
    "records": ("method", "config_file", "errors"),
    "training": ("data", "models", "nn", "method", "records", "config", "errors"),
    "export": ("training", "models", "nn", "method", "records", "data", "config", "errors"),
    "reporting": ("records", "method", "config", "config_file", "errors"),
}
# The files at the top may import all but these, which only start runs.
ENTRY_POINTS = {"main": (), "experiment": ("main", "__init__")}
LARGEST_FILE = 300  # Lines.


def imports(source: str) -> list[tuple[int, str]]:
  """Returns (line, full name) of everything that Python source imports, in functions too."""
  found = []
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      found += [(node.lineno, alias.name) for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      prefix = "." * node.level + (node.module or "")
      found += [(node.lineno, f"{prefix}.{alias.name}") for alias in node.names]
  return sorted(found)


def is_part(name: str, module: str) -> bool:
  """Says whether a full name is a module or something in it."""
  return f"{name}.".startswith(f"{module}.")


def against_the_wings(wing: str, source: str) -> list[tuple[int, str]]:
  """Returns the imports of source that a file of a wing must not have."""
  allowed = [f"metamix_jax.{part}" for part in (wing, *ALLOWED[wing])]
  return [
      (line, name) for line, name in imports(source)
      if name.startswith(".") or is_part(name, "metamix_jax") and not any(is_part(name, part) for part in allowed)]


def package_files() -> dict[pathlib.PurePath, str]:
  """Returns the source of each file of the package by its path below metamix_jax/."""
  return {path.relative_to(PACKAGE): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}


@pytest.mark.parametrize("wing", ALLOWED)
def test_each_wing_imports_only_what_it_builds_on(wing):
  files = {path: source for path, source in package_files().items() if path.parts[0] == wing}
  assert len(files) > 1
  assert {str(path): found for path, source in files.items() if (found := against_the_wings(wing, source))} == {}


@pytest.mark.parametrize("source", [
    "import metamix_jax.training.state", "from metamix_jax.training import state", "from metamix_jax import training",
    "from metamix_jax import gbops", "from ..training import state", "import metamix_jax",
    "def f():\n  if True:\n    from metamix_jax.training.state import MetaState"])
def test_every_way_to_import_is_seen(source):
  assert len(against_the_wings("method", source)) == 1
  assert against_the_wings("method", "from metamix_jax.method.bops import gbops\nimport jax") == []
  assert against_the_wings("models", "from metamix_jax.records import multihost")
  assert against_the_wings("models", "from metamix_jax.nn.layers import QuantConv") == []


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_nothing_builds_on_what_starts_a_run(name):
  users = {
      str(path) for path, source in package_files().items()
      if any(is_part(imported, f"metamix_jax.{name}") for _, imported in imports(source))}
  assert users <= {f"{user}.py" for user in ENTRY_POINTS[name]}


def test_only_the_data_wing_imports_tensorflow():
  users = {
      path.parts[0] for path, source in package_files().items()
      if any(name.partition(".")[0].startswith("tensorflow") for _, name in imports(source))}
  assert users == {"data"}


def test_the_evaluator_of_an_export_needs_numpy_alone():
  """It is copied into every export, to run without this package."""
  names = {name.partition(".")[0] for _, name in imports((PACKAGE / "export" / "evaluator.py").read_text())}
  assert names - sys.stdlib_module_names == {"numpy"}


def test_only_parallel_knows_pmap():
  users = {
      str(path) for path, source in package_files().items()
      if any(name.rpartition(".")[2] == "pmap" for _, name in imports(source)) or any(
          isinstance(node, ast.Attribute) and node.attr == "pmap" for node in ast.walk(ast.parse(source)))}
  assert users == {"training/parallel.py"}


def test_no_file_is_too_long_and_the_top_level_is_small():
  files = package_files()
  lines = {str(path): source.count("\n") for path, source in files.items()}
  assert {path: count for path, count in lines.items() if count > LARGEST_FILE} == {}
  assert {path.stem for path in files if len(path.parts) == 1} <= TOP_LEVEL
  assert {path.parts[0] for path in files if len(path.parts) > 1} == set(ALLOWED)


@pytest.mark.parametrize("module", ["saved_run", "page"])
def test_a_report_is_read_without_the_training_stack(module):
  code = f"import sys, metamix_jax.reporting.{module}; print(*sys.modules, sep='\\n')"
  result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
  loaded = result.stdout.splitlines()
  assert f"metamix_jax.reporting.{module}" in loaded
  heavy = ("tensorflow", "tensorflow_datasets", "orbax", "metamix_jax.training", "metamix_jax.nn", "metamix_jax.models",
           "metamix_jax.data")
  assert [name for name in heavy if name in loaded] == []


def test_no_test_module_imports_another_and_none_changes_the_path():
  wrong = {}
  for path in sorted((ROOT / "tests").rglob("*.py")):
    source = path.read_text()
    found = [name for _, name in imports(source)
             if name.startswith(".") or is_part(name, "tests") and not is_part(name, "tests.helpers")]
    found += [f"sys.path, line {node.lineno}" for node in ast.walk(ast.parse(source))
              if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path"]
    if found:
      wrong[str(path.relative_to(ROOT))] = found
  assert wrong == {}


def is_there(name: str) -> bool:
  """Says whether a full name is a module, or an attribute of one."""
  try:
    pkgutil.resolve_name(name)
  except (ImportError, AttributeError):
    return False
  return True


@pytest.mark.parametrize("folder", ["scripts", "configs"])
def test_what_stands_outside_of_the_package_imports_names_that_it_has(folder):
  """Scripts import in functions too, where neither a type checker nor their own import looks."""
  missing = [
      f"{path.relative_to(ROOT)}:{line}: {name}" for path in sorted((ROOT / folder).rglob("*.py"))
      for line, name in imports(path.read_text()) if is_part(name, "metamix_jax") and not is_there(name)]
  assert missing == []


def test_a_name_that_the_package_lacks_is_noticed():
  assert is_there("metamix_jax.training.judge.ScoreFile") and is_there("metamix_jax.training.judge")
  assert not is_there("metamix_jax.training.judge.no_such_name")
