"""Each equation of the method is claimed by the docstring of exactly one function."""

import ast
import pathlib
import re

PACKAGE = pathlib.Path(__file__).parent.parent / "metamix_jax"


def test_each_equation_has_exactly_one_function():
  claims = {number: [] for number in range(1, 15)}
  for path in sorted(PACKAGE.rglob("*.py")):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.FunctionDef):
        match = re.match(r"M(\d+)\b", ast.get_docstring(node) or "")
        if match:
          claims[int(match[1])].append(f"{path.name}:{node.name}")
  assert {number: names for number, names in claims.items() if len(names) != 1} == {}
