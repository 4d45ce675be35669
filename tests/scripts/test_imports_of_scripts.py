"""Every script finds what it imports when it is started as a file: packages, the package, and scripts in its folder."""

import ast
import importlib.machinery
import importlib.util
import sys

import pytest

from tests.helpers.files import ROOT

# Packages that the tests do without: the script, or its first lines, say how to install them.
OPTIONAL = {"cosmic_ray", "libtpu", "torch", "torchvision"}
SCRIPTS = sorted(path for path in (ROOT / "scripts").rglob("*.py") if path.parent.name != "claims")


def imported(source):
  """Returns the first part of the name of everything that Python source imports, in functions too."""
  names = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      names |= {alias.name.partition(".")[0] for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      names.add((node.module or "").partition(".")[0])
  return names


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT / "scripts")))
def test_a_script_finds_what_it_imports(script):
  missing = {
      name for name in imported(script.read_text()) - OPTIONAL - sys.stdlib_module_names
      if importlib.machinery.PathFinder.find_spec(name, [str(script.parent)]) is None
      and importlib.util.find_spec(name) is None}
  assert not missing


def test_a_script_of_another_folder_is_not_found():
  assert "synthetic" in imported((ROOT / "scripts" / "benchmarks" / "bench.py").read_text())
  assert importlib.machinery.PathFinder.find_spec("synthetic", [str(ROOT / "scripts")]) is None
