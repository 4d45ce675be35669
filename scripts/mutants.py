"""Mutation tests: changes one operator or number at a time, and prints the changes that no test notices.

  .venv/bin/uv pip install --python .venv/bin/python cosmic-ray
  .venv/bin/python scripts/mutants.py                                     # all files of TESTS_OF
  .venv/bin/python scripts/mutants.py metamix_jax/method/losses.py        # one of them
  .venv/bin/python scripts/mutants.py --sample=30                         # at most 30 mutants of each, drawn at random

The mutants are those of cosmic-ray. Its own runner starts Python and imports JAX for each of them, and mutmut leaves
out functions with decorators, which the quantisers are. Here each mutant is a fork of one process that has imported JAX
and has run nothing of it, so that it has no threads yet. tests/equivalent_mutants.md lists the survivors with reasons.
"""

import argparse
import collections
import compileall
import importlib
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import types

import cosmic_ray.ast
from cosmic_ray.mutating import mutate_code
import cosmic_ray.plugins
import pytest

ROOT = pathlib.Path(__file__).parent.parent
# The fast test files that cover a file.
METHOD, TRAINING = "tests/method", "tests/training"
TESTS_OF = {
    "metamix_jax/method/losses.py": (f"{METHOD}/test_losses.py",),
    "metamix_jax/method/reductions.py": (f"{METHOD}/test_reductions.py",),
    "metamix_jax/method/bops.py": (
        f"{METHOD}/test_selection.py", f"{METHOD}/test_bops.py", f"{METHOD}/test_costs.py", f"{METHOD}/test_pairs.py"),
    "metamix_jax/method/precision.py": (
        f"{METHOD}/test_precision.py", f"{METHOD}/test_selection.py", "tests/test_unequal_candidates.py"),
    "metamix_jax/method/bit_mixture.py": (f"{METHOD}/test_bit_mixture.py", f"{METHOD}/test_bops.py"),
    "metamix_jax/method/quantizers.py": (
        f"{METHOD}/test_quantizers.py", f"{METHOD}/test_quantizer_properties.py", "tests/nn/test_layers.py"),
    "metamix_jax/method/selection.py": (
        f"{METHOD}/test_selection.py", f"{METHOD}/test_selection_properties.py", f"{METHOD}/test_costs.py"),
    "metamix_jax/method/assignments.py": (f"{METHOD}/test_assignments.py",),
    "metamix_jax/method/costs.py": (f"{METHOD}/test_costs.py", "tests/records/test_cost_tables.py"),
    "metamix_jax/method/layer_bits.py": (f"{METHOD}/test_layer_bits.py",),
    "metamix_jax/method/pairs.py": (f"{METHOD}/test_pairs.py",),
    "metamix_jax/method/limits.py": (f"{METHOD}/test_limits.py", "tests/records/test_limits.py"),
    "metamix_jax/training/steps.py": (
        f"{TRAINING}/test_steps_by_hand.py", f"{TRAINING}/test_random_numbers.py", f"{TRAINING}/test_costs.py"),
}
# Bit operators on floats are a TypeError for every test, `|` stands in types and between dicts, and whether equal
# numbers are one object is the interpreter's choice.
LEFT_OUT = re.compile(r"_(BitOr|BitAnd|BitXor|RShift|LShift)(_|$)|_Invert$|_BitOr_|_Is(Not)?$")
# Of processor time, beside three times what the tests take without a change: an endless loop ends there.
MORE_SECONDS = 20
# A fork that waits for ever takes no processor time.
SECONDS_ON_THE_CLOCK = 3600


def mutants(source):
  """Yields (line, what changed, mutated source) for each mutant of a source text that is a program of its own."""
  nodes = list(cosmic_ray.ast.ast_nodes(cosmic_ray.ast.get_ast(source)))
  seen = {byte_code(source)}
  for name in sorted(cosmic_ray.plugins.operator_names()):
    operator_class = cosmic_ray.plugins.get_operator(name)
    if LEFT_OUT.search(name) or operator_class.arguments():
      continue
    operator = operator_class()
    lines = [start[0] for node in nodes for start, _ in operator.mutation_positions(node)]
    for occurrence, line in enumerate(lines):
      mutated = mutate_code(source, operator, occurrence)
      code = byte_code(mutated)
      if code not in seen:
        seen.add(code)
        changed = next((old, new) for old, new in zip(
            source.splitlines(), mutated.splitlines(), strict=False) if old.strip() != new.strip())
        yield line, " -> ".join(text.strip() for text in changed), mutated


def byte_code(source):
  """Compiles a text; returns what tells one program from another, without the places in the text."""
  def of(code):
    constants = tuple(
        of(constant) if isinstance(constant, types.CodeType) else (type(constant), repr(constant))
        for constant in code.co_consts)
    return code.co_code, code.co_exceptiontable, code.co_names, code.co_varnames, code.co_freevars, constants
  return of(compile(source, "mutant", "exec"))


class FirstFailure:
  """Pytest's part in a fork: runs the tests in an order, the cheapest first, and ends the process at the first failure.

  It writes a line to a pipe for each test: its name, and its seconds if it passes, "failed" if not.
  """

  def __init__(self, pipe, cost):
    self._pipe, self._cost = pipe, cost

  def pytest_collection_modifyitems(self, items):
    items.sort(key=lambda item: self._cost(item.nodeid))

  def pytest_collectreport(self, report):
    if report.failed:
      self._end(report.nodeid)

  @pytest.hookimpl(tryfirst=True)
  def pytest_runtest_makereport(self, item, call):  # Before the traceback is made into a text.
    if call.excinfo is not None and not call.excinfo.errisinstance(pytest.skip.Exception):
      self._end(item.nodeid)
    if call.when == "call":
      os.write(self._pipe, f"{item.nodeid}\t{call.duration}\n".encode())

  def pytest_sessionfinish(self, exitstatus):
    os._exit(exitstatus)

  def _end(self, name):
    os.write(self._pipe, f"{name}\tfailed\n".encode())
    os._exit(1)


def run_tests(folder, tests, seconds, cost=lambda name: 0):
  """Runs tests in a fork, in a copy of the repository.

  Args:
    folder: the copy.
    tests: files of tests.
    seconds: of processor time; then the process ends.
    cost: of a test by its name: the lowest come first.

  Returns:
    (passed, {name of a test: its seconds, or "failed"}). A process that takes too long or dies has not passed.
  """
  results, pipe = os.pipe()
  child = os.fork()
  if child == 0:
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))
    signal.alarm(SECONDS_ON_THE_CLOCK)  # Its default ends the process.
    with open(os.devnull, "w") as nowhere:
      os.dup2(nowhere.fileno(), 1)
      os.dup2(nowhere.fileno(), 2)
    os.chdir(folder)
    sys.path[0] = str(folder)
    left_out = ("cacheprovider", "unraisableexception", "threadexception")  # The last two collect garbage at the end.
    os._exit(pytest.main(
        ["-q", "--assert=plain", "-o", "faulthandler_timeout=0", "-m", "not slow and not torch",
         *(f"-pno:{name}" for name in left_out), *tests],
        [FirstFailure(pipe, cost)]))
  os.close(pipe)
  with os.fdopen(results) as lines:
    outcomes = dict(line.rstrip("\n").rsplit("\t", 1) for line in lines)
  return os.waitpid(child, 0)[1] == 0, outcomes


def processor_seconds():
  """Returns the processor time of all forks that have ended."""
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  return used.ru_utime + used.ru_stime


def try_mutants_of(path, folder, sample):
  """Prints the survivors of one file, which test noticed how many of the others, and returns the numbers of both."""
  source, tests = (folder / path).read_text(), TESTS_OF[path]
  for _ in range(2):  # The second one finds its programs compiled.
    before = processor_seconds()
    passed, outcomes = run_tests(folder, tests, SECONDS_ON_THE_CLOCK)
    if not passed:
      sys.exit(f"mutants.py: {', '.join(tests)} fail on {path} as it is: {outcomes}.")
  limit = 3 * (processor_seconds() - before) + MORE_SECONDS
  # First the tests that notice much in little time.
  noticed_by = collections.Counter()
  cost = lambda name: (0.01 + float(outcomes.get(name, 0))) / (1 + noticed_by[name])
  before, count = processor_seconds(), collections.Counter(noticed=0, survived=0)
  tried = every = list(mutants(source))
  if len(every) > sample:
    tried = sorted(random.Random(0).sample(every, sample))
  for line, change, mutated in tried:
    (folder / path).write_text(mutated)
    passed, of_mutant = run_tests(folder, tests, limit, cost)
    count["survived" if passed else "noticed"] += 1
    if passed:
      print(f"{path}:{line}: {change}", flush=True)
    else:
      noticed_by[next((name for name, outcome in of_mutant.items() if outcome == "failed"), "the time limit")] += 1
  (folder / path).write_text(source)
  for name, number in noticed_by.most_common():
    print(f"  {number:4} noticed by {name}")
  seconds = processor_seconds() - before
  print(f"{path}: {dict(count)} of {len(every)}, {seconds:.0f} seconds of processor time", flush=True)
  return count


def main(paths, sample):
  """Tries the mutants of some files, at most `sample` of each."""
  missing = {str(file.relative_to(ROOT)) for file in (ROOT / "metamix_jax/method").glob("[!_]*.py")} - TESTS_OF.keys()
  if missing:
    sys.exit(f"mutants.py: TESTS_OF has no tests of {', '.join(sorted(missing))}.")
  total = collections.Counter()
  with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch) / "repository"
    for name in ("metamix_jax", "tests", "configs", "scripts", "docs"):
      shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md"):
      shutil.copy(ROOT / name, folder)
    compileall.compile_dir(folder, quiet=1)
    sys.dont_write_bytecode = True  # Of two mutants in one second, the second would be taken for the first.
    # Programs that a mutant leaves as they are come from the cache.
    os.environ |= {
        "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(pathlib.Path(scratch) / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONPATH": str(folder), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    for module in ("flax.linen", "flax.traverse_util", "hypothesis.strategies", "jax.numpy", "ml_collections", "optax"):
      importlib.import_module(module)
    for path in paths:
      total += try_mutants_of(path, folder, sample)
  print(f"all: {dict(total)}, {total['survived'] / max(sum(total.values()), 1):.1%} survived")


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("paths", nargs="*", metavar="FILE", default=list(TESTS_OF), help="a file of TESTS_OF")
  parser.add_argument("--sample", type=int, default=sys.maxsize, help="the highest number of mutants of a file")
  arguments = parser.parse_args()
  main(arguments.paths, arguments.sample)
