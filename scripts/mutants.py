"""Mutation tests: changes one operator or number at a time, and prints the changes that no test notices.

  .venv/bin/uv pip install --python .venv/bin/python cosmic-ray
  .venv/bin/python scripts/mutants.py                                     # all files of TESTS_OF
  .venv/bin/python scripts/mutants.py metamix_jax/method/losses.py        # one of them

The mutants are those of cosmic-ray. Its own runner starts Python and imports JAX for each of them, and mutmut leaves
out functions with decorators, which the quantisers are. Here each mutant is a fork of one process that has imported JAX
and has run nothing of it, so that it has no threads yet. tests/equivalent_mutants.md lists the survivors with reasons.
"""

import collections
import importlib
import os
import pathlib
import re
import shutil
import signal
import sys
import tempfile
import time

import cosmic_ray.ast
from cosmic_ray.mutating import mutate_code
import cosmic_ray.plugins

ROOT = pathlib.Path(__file__).parent.parent
# The fast test files that cover a file, the quickest first.
METHOD, TRAINING = "tests/method", "tests/training"
TESTS_OF = {
    "metamix_jax/method/losses.py": (f"{METHOD}/test_losses.py",),
    "metamix_jax/method/bops.py": (f"{METHOD}/test_selection.py", f"{METHOD}/test_bops.py"),
    "metamix_jax/method/selection.py": (f"{METHOD}/test_selection.py", f"{METHOD}/test_selection_properties.py"),
    "metamix_jax/method/assignments.py": (f"{METHOD}/test_assignments.py",),
    "metamix_jax/method/precision.py": (
        f"{METHOD}/test_precision.py", f"{METHOD}/test_selection.py", "tests/test_unequal_candidates.py"),
    "metamix_jax/method/reductions.py": (f"{METHOD}/test_reductions.py",),
    "metamix_jax/method/quantizers.py": (
        f"{METHOD}/test_quantizers.py", f"{METHOD}/test_quantizer_properties.py", "tests/nn/test_layers.py"),
    "metamix_jax/method/bit_mixture.py": (f"{METHOD}/test_bit_mixture.py", f"{METHOD}/test_bops.py"),
    "metamix_jax/training/steps.py": (f"{TRAINING}/test_steps_by_hand.py",),
}
# Bit operators on floats are a TypeError for every test, and `|` stands in types and between dicts.
LEFT_OUT = re.compile(r"_(BitOr|BitAnd|BitXor|RShift|LShift)(_|$)|_Invert$|_BitOr_")
SECONDS_OF_A_MUTANT = 300


def mutants(source):
  """Yields (line, what changed, mutated source) for each mutant of a source text."""
  nodes = list(cosmic_ray.ast.ast_nodes(cosmic_ray.ast.get_ast(source)))
  for name in sorted(cosmic_ray.plugins.operator_names()):
    operator_class = cosmic_ray.plugins.get_operator(name)
    if LEFT_OUT.search(name) or operator_class.arguments():
      continue
    operator = operator_class()
    lines = [start[0] for node in nodes for start, _ in operator.mutation_positions(node)]
    for occurrence, line in enumerate(lines):
      mutated = mutate_code(source, operator, occurrence)
      changed = [f"{old.strip()} -> {new.strip()}" for old, new in zip(
          source.splitlines(), mutated.splitlines(), strict=False) if old != new]
      yield line, changed[0] if changed else name, mutated


def is_noticed(folder, tests):
  """Runs tests in a fork, in a copy of the repository; a process that takes too long or dies has noticed."""
  child = os.fork()
  if child == 0:
    signal.alarm(SECONDS_OF_A_MUTANT)  # Its default ends the process.
    sys.stdout.flush()
    with open(os.devnull, "w") as nowhere:
      os.dup2(nowhere.fileno(), 1)
      os.dup2(nowhere.fileno(), 2)
    os.chdir(folder)
    sys.path[0] = str(folder)
    import pytest
    os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not torch", *tests]))
  return os.waitpid(child, 0)[1] != 0


def main(paths):
  """Prints the survivors of each file, and how many of its mutants are noticed."""
  total = collections.Counter()
  with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch) / "repository"
    for name in ("metamix_jax", "tests", "configs", "scripts", "docs"):
      shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md"):
      shutil.copy(ROOT / name, folder)
    # Programs that a mutant leaves as they are come from the cache.
    os.environ |= {
        "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(pathlib.Path(scratch) / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONPATH": str(folder)}
    sys.dont_write_bytecode = True  # Of two mutants in one second, the second would be taken for the first.
    for module in ("flax.linen", "jax.numpy", "optax", "pytest"):
      importlib.import_module(module)
    for path in paths:
      source, tests = (ROOT / path).read_text(), TESTS_OF[path]
      if is_noticed(folder, tests):
        sys.exit(f"mutants.py: {', '.join(tests)} fail on {path} as it is.")
      began, count = time.monotonic(), collections.Counter()
      for line, change, mutated in mutants(source):
        (folder / path).write_text(mutated)
        noticed = is_noticed(folder, tests)
        count["noticed" if noticed else "survived"] += 1
        if not noticed:
          print(f"{path}:{line}: {change}", flush=True)
      (folder / path).write_text(source)
      total += count
      print(f"{path}: {dict(count)}, {time.monotonic() - began:.0f} seconds", flush=True)
  print(f"all: {dict(total)}, {total['survived'] / max(sum(total.values()), 1):.1%} survived")


if __name__ == "__main__":
  main(sys.argv[1:] or list(TESTS_OF))
