"""What a compiled program depends on, as text: where two texts are equal, the programs are.

Tracing a step says so exactly, and takes the time that saved_programs.py saves. This describes what tracing would read:
the sources of this package and the versions of the others, what is bound to the names of this package's modules, what
the step's closures hold, and the static parts and the shapes of its arguments. What cannot be described for sure is an
error, and such a program is not saved: functions, classes and networks of a user's own modules above all.
"""

from collections.abc import Mapping
import dataclasses
import functools
import hashlib
from importlib import metadata
import inspect
import json
import os
import pathlib
import platform
import sys
import types
from typing import Any

import jax
import numpy as np

from metamix_jax.data.cores import available_cores

PACKAGE = __name__.partition(".")[0]
# Whose modules a step is written in. They are loaded before the first step.
PARTS = tuple(f"{PACKAGE}.{part}." for part in ("method", "models", "nn", "training"))
# Whose functions and classes are known by their names, because sources or versions are part of the text.
KNOWN_PACKAGES = (PACKAGE, "jax", "flax", "optax", "numpy", "ml_dtypes", "builtins", "functools")
VERSIONS = ("jax", "jaxlib", "flax", "optax", "numpy", "ml_dtypes")
METHODS = (types.FunctionType, property, staticmethod, classmethod)
PLAIN = (type(None), bool, int, float, complex, str, bytes)


class NotDescribedError(Exception):
  """Says what a program depends on that has no description."""


def identity(mapped: Any, arguments: tuple[Any, ...]) -> str:
  """Describes the program that a mapped step is for its arguments.

  Args:
    mapped: of parallel.Programs.
    arguments: trees of arrays on devices, with static parts.

  Raises:
    NotDescribedError: something that the program depends on has no description.
  """
  return json.dumps({
      "surroundings": _surroundings(), "step": _static(mapped.__wrapped__),
      "arguments": [_argument(value) for value in arguments]})


def host() -> list:
  """Returns what XLA's programs for this host depend on, besides their text."""
  cpuinfo = pathlib.Path("/proc/cpuinfo")
  features = cpuinfo.read_text(encoding="utf-8").split("flags", 1)[-1].split("\n", 1)[0] if cpuinfo.exists() else ""
  return [platform.machine(), hashlib.sha256(features.encode()).hexdigest(), available_cores(),
          os.environ.get("XLA_FLAGS", "")]


def _surroundings() -> dict[str, Any]:
  client, settings = jax.devices()[0].client, dict(jax.config.values)
  return {
      "host": host(), "tpu": os.environ.get("LIBTPU_INIT_ARGS", ""),
      "platform": [client.platform, client.platform_version],
      "devices": [[device.id, device.device_kind] for device in jax.devices()],
      "python": platform.python_version(), "versions": {name: metadata.version(name) for name in VERSIONS},
      "jax": {name: repr(settings[name]) for name in sorted(settings) if "cache" not in name},
      "sources": _sources(), "names": _names()}


@functools.cache
def _sources() -> str:
  """Returns a hash of this package's source files."""
  folder, digest = pathlib.Path(__file__).parents[1], hashlib.sha256()
  for path in sorted(folder.rglob("*.py")):
    content = path.read_bytes()
    digest.update(f"{path.relative_to(folder)} {len(content)} ".encode() + content)
  return digest.hexdigest()


def _names() -> str:
  """Returns a hash of what the names of this package's modules are bound to: another function there is another program.

  Raises:
    NotDescribedError: a name is bound to a function or class of a module that is not installed.
  """
  lines = []
  for name, module in sorted(sys.modules.items()):
    if name.startswith(PARTS):
      lines += [f"{name}.{attribute} {_bound(value)}" for attribute, value in sorted(vars(module).items())
                if not attribute.startswith("__")]
  return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _bound(value: Any) -> str:
  """Describes what a module's or a class's name is bound to."""
  if isinstance(value, type):
    members = vars(value).items() if value.__module__.startswith(PARTS) else ()
    inside = [f"{name} {_bound(member)}" for name, member in sorted(members) if isinstance(member, METHODS)]
    return f"{_installed(value.__module__)}.{value.__qualname__} {inside}"
  if isinstance(value, METHODS):
    function: Any = getattr(value, "fget", None) or getattr(value, "__func__", value)
    function = inspect.unwrap(function)  # Flax wraps methods.
    return f"{_installed(function.__globals__['__name__'])}.{function.__qualname__} {function.__code__.co_firstlineno}"
  try:
    return json.dumps(_static(value))
  except NotDescribedError:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _installed(module: str) -> str:
  """Returns the name of a module; raises NotDescribedError if its package is neither installed nor Python's."""
  package = module.partition(".")[0]
  if package.startswith("namedtuple_"):  # What Python gives a NamedTuple of these modules.
    return module
  if package != PACKAGE and package not in sys.stdlib_module_names and package not in _installed_packages():
    raise NotDescribedError(f"a function or class of {module}")
  return module


@functools.cache
def _installed_packages() -> frozenset[str]:
  return frozenset(metadata.packages_distributions())


def _argument(value: Any) -> Any:
  """Describes an argument of a step: the shapes of its arrays, and its static parts."""
  if isinstance(value, jax.Array):
    devices = sorted(device.id for device in value.sharding.device_set)
    return ["array", value.shape, str(value.dtype), value.weak_type, str(value.sharding), devices]
  if isinstance(value, Mapping):
    return [_known(type(value)), [[_static(key), _argument(value[key])] for key in sorted(value)]]
  if isinstance(value, tuple | list):
    return [_known(type(value)), [_argument(part) for part in value]]
  if dataclasses.is_dataclass(value):
    return [_known(type(value)), [
        [field.name, (_argument if field.metadata.get("pytree_node", True) else _static)(getattr(value, field.name))]
        for field in dataclasses.fields(value)]]
  return _static(value)


def _static(value: Any) -> Any:
  """Describes a value that a program has inside."""
  if isinstance(value, PLAIN):
    return [type(value).__name__, repr(value)]
  if isinstance(value, np.ndarray | np.generic | jax.Array):
    content = np.asarray(value)
    return ["values", content.shape, str(content.dtype), hashlib.sha256(content.tobytes()).hexdigest()]
  if isinstance(value, np.dtype):
    return ["dtype", str(value)]
  if isinstance(value, type):
    return ["class", _known(value)]
  if isinstance(value, tuple | list):
    return [_known(type(value)), [_static(part) for part in value]]
  if isinstance(value, Mapping):
    return [_known(type(value)), [[_static(key), _static(part)] for key, part in value.items()]]
  if isinstance(value, functools.partial):
    return ["partial", _static(value.func), _static(value.args), _static(value.keywords)]
  if isinstance(value, types.FunctionType):
    return _function(value)
  if dataclasses.is_dataclass(value):
    return [_known(type(value)), [
        [field.name, _static(getattr(value, field.name))] for field in dataclasses.fields(value)]]
  if isinstance(value, jax.custom_vjp):
    return ["custom_vjp", _static(value.fun), _static(value.fwd), _static(value.bwd)]
  if hasattr(value, "__wrapped__"):  # jax.jit.
    return [_known(type(value)), _static(value.__wrapped__)]
  raise NotDescribedError(f"a {type(value).__qualname__}")


def _function(value: types.FunctionType) -> Any:
  """Describes a function: where it is written, its defaults, and what its closure holds."""
  module = value.__globals__["__name__"]
  if module.partition(".")[0] not in KNOWN_PACKAGES:
    raise NotDescribedError(f"a function of {module}")
  try:
    held = [cell.cell_contents for cell in value.__closure__ or ()]
    return ["function", module, value.__qualname__, value.__code__.co_firstlineno, _static(value.__defaults__),
            _static(value.__kwdefaults__), [_static(part) for part in held]]
  except (ValueError, RecursionError) as error:  # An empty cell, or a function that holds itself.
    raise NotDescribedError(f"the closure of {value.__qualname__}") from error


def _known(kind: type) -> str:
  """Returns the name of a class; raises NotDescribedError if it is not of a known package."""
  if kind.__module__.partition(".")[0] not in KNOWN_PACKAGES:
    raise NotDescribedError(f"the class {kind.__module__}.{kind.__qualname__}")
  return f"{kind.__module__}.{kind.__qualname__}"
