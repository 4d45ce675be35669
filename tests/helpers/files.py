"""Where the repository's files are, and its scripts and configs as modules."""

import functools
import importlib.util
import pathlib
import types

ROOT = pathlib.Path(__file__).parent.parent.parent
PACKAGE = ROOT / "metamix_jax"
GOLDEN = pathlib.Path(__file__).parent.parent / "golden"


@functools.cache  # A script defines flags, which several test files of one process must not do again.
def load_module(path: pathlib.Path) -> types.ModuleType:
  """Loads a Python file that belongs to no package; sys.path and sys.modules stay as they are."""
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def load_script(name: str) -> types.ModuleType:
  """Loads scripts/NAME.py, such as "make_standin_imagenet" or "benchmarks/synthetic"."""
  return load_module(ROOT / "scripts" / f"{name}.py")
