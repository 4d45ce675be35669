"""What a compiled program depends on, as text: programs with equal texts are equal.

Tracing a step gives the program itself, but takes the time that saved_programs.py is there to save. The text has what
tracing reads: the sources of this project and the versions of all installed packages, the settings of JAX, XLA and
Flax, the devices, what the step's closures hold, and the static parts and the shapes of its arguments. There is no text
where other code is loaded, which could have changed anything, or where a closure holds what has no description.
"""

from collections.abc import Mapping
import dataclasses
import functools
import hashlib
from importlib import metadata
import json
import os
import pathlib
import platform
import sys
import sysconfig
import types
from typing import Any

import flax
import jax
import numpy as np

from metamix_jax.data.cores import available_cores

_PACKAGE = pathlib.Path(__file__).resolve().parents[1]
# The modules of this project: its package, and its scripts where it is not installed without them.
_OWN_FOLDERS = (_PACKAGE, _PACKAGE.parent / "scripts")
# What ml_collections and config_file.py call the modules of config files.
_CONFIG_MODULES = ("config_config", "config_file_")
# TensorFlow writes what it makes of functions of this project to temporary files, for the input pipeline.
_GENERATED_MODULES = "__autograph_generated_file"
_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_COMPILED_FUNCTION = type(jax.jit(lambda: None))


class NotDescribedError(Exception):
  """Says what a program depends on that has no description."""


def identity(name: str, mapped: Any, arguments: tuple[Any, ...]) -> str:
  """Describes the program that a mapped step is for its arguments.

  Args:
    name: of its field in parallel.Programs, which says how it is mapped.
    mapped: the step.
    arguments: trees of arrays on devices, with static parts.

  Raises:
    NotDescribedError: something that the program depends on has no description.
  """
  return json.dumps({
      "configs": describe_configs(), "surroundings": _surroundings(), "name": name, "step": _static(mapped.__wrapped__),
      "arguments": [_argument(value) for value in arguments]})


def host() -> list:
  """Returns what XLA's programs for this host depend on, besides their text."""
  path = pathlib.Path("/proc/cpuinfo")
  processor = path.read_text(encoding="utf-8").split("\n\n", 1)[0] if path.exists() else platform.processor()
  for word in ("flags", "Features"):  # x86, ARM.
    if word in processor:
      processor = processor.split(word, 1)[1].split("\n", 1)[0]
  return [platform.machine(), hashlib.sha256(processor.encode()).hexdigest(), available_cores(),
          os.environ.get("XLA_FLAGS", "")]


def describe_configs() -> list[str]:
  """Returns hashes of the loaded config files, which are code, and the command's choice among what they have.

  Raises:
    NotDescribedError: another module is loaded that is neither Python's, nor installed, nor this project's.
  """
  configs = [argument for argument in sys.argv if argument.startswith("--config=")]
  for name, module in list(sys.modules.items()):
    path = getattr(module, "__file__", None)
    if name.startswith(_GENERATED_MODULES):
      continue
    if name.startswith(_CONFIG_MODULES) and path:
      configs.append(hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest())
    elif name == "__main__" and path is None or path and not os.path.abspath(path).startswith(_known_folders()):
      raise NotDescribedError(f"the module {name}, whose code is not installed")
  return configs


@functools.cache
def _known_folders() -> tuple[str, ...]:
  paths = sysconfig.get_paths()
  folders = {*_OWN_FOLDERS, *(paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib", "scripts"))}
  return tuple(f"{folder}{os.sep}" for path in folders for folder in (path, os.path.realpath(path)))


def _own_sources() -> str:
  """Returns a hash of this project's source files."""
  digest = hashlib.sha256()
  for folder in _OWN_FOLDERS:
    for path in sorted(folder.rglob("*.py")):
      content = path.read_bytes()
      digest.update(f"{path.relative_to(folder)} {len(content)} ".encode() + content)
  return digest.hexdigest()


_OWN_SOURCES = _own_sources()  # Now, and not at the first step: they may be edited while data is opened.


@functools.cache
def _versions() -> list[str]:
  return sorted(f"{package.metadata['Name']} {package.version}" for package in metadata.distributions())


def _surroundings() -> dict[str, Any]:
  client, settings = jax.devices()[0].client, dict(jax.config.values)
  return {
      "host": host(), "tpu": os.environ.get("LIBTPU_INIT_ARGS", ""),
      "platform": [client.platform, client.platform_version],
      "devices": [[device.id, device.device_kind] for device in jax.devices()],
      "python": platform.python_version(), "versions": _versions(), "sources": _OWN_SOURCES, "flax": repr(flax.config),
      "jax": {name: repr(settings[name]) for name in sorted(settings) if "cache" not in name}}


def _argument(value: Any) -> Any:
  """Describes an argument of a step: the shapes of its arrays, and its static parts."""
  if isinstance(value, jax.Array):
    sharding = value.sharding
    devices = sharding.mesh.devices.flat if isinstance(sharding, jax.sharding.NamedSharding) else sharding.device_set
    return ["array", value.shape, str(value.dtype), value.weak_type, str(sharding), [device.id for device in devices]]
  if isinstance(value, Mapping):
    return [_name(type(value)), [[_static(key), _argument(value[key])] for key in sorted(value)]]
  if isinstance(value, tuple | list):
    return [_name(type(value)), [_argument(part) for part in value]]
  if dataclasses.is_dataclass(value):
    return [_name(type(value)), [
        [field.name, (_argument if field.metadata.get("pytree_node", True) else _static)(getattr(value, field.name))]
        for field in dataclasses.fields(value)]]
  return _static(value)


def _static(value: Any) -> Any:
  """Describes a value that a program has inside."""
  if isinstance(value, _PLAIN):
    return [type(value).__name__, repr(value)]
  if isinstance(value, np.ndarray | np.generic | jax.Array):
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended):
      raise NotDescribedError("a key of random numbers")
    content = np.asarray(value)
    return ["values", content.shape, str(content.dtype), getattr(value, "weak_type", False),
            hashlib.sha256(content.tobytes()).hexdigest()]
  if isinstance(value, np.dtype):
    return ["dtype", str(value)]
  if isinstance(value, type):
    return ["class", _name(value)]
  if isinstance(value, tuple | list):
    return [_name(type(value)), [_static(part) for part in value]]
  if isinstance(value, Mapping):
    return [_name(type(value)), [[_static(key), _static(part)] for key, part in value.items()]]
  if dataclasses.is_dataclass(value):
    return [_name(type(value)), [
        [field.name, _static(getattr(value, field.name))] for field in dataclasses.fields(value)]]
  return _callable(value)


def _callable(value: Any) -> Any:
  """Describes a function or what stands for one: where it is written, its defaults, and what its closure holds."""
  if isinstance(value, functools.partial):
    return ["partial", _static(value.func), _static(value.args), _static(value.keywords)]
  if isinstance(value, types.MethodType):
    return ["method", _static(value.__func__), _static(value.__self__)]
  if isinstance(value, jax.custom_vjp):
    return ["custom_vjp", _static(value.fun), _static(value.fwd), _static(value.bwd)]
  if isinstance(value, _COMPILED_FUNCTION):
    compiled: Any = value
    return ["jit", _static(compiled.__wrapped__)]
  if not isinstance(value, types.FunctionType):
    raise NotDescribedError(f"a {type(value).__qualname__}")
  try:
    held = [cell.cell_contents for cell in value.__closure__ or ()]
    return ["function", value.__globals__["__name__"], value.__qualname__, value.__code__.co_firstlineno,
            _static(value.__defaults__), _static(value.__kwdefaults__), [_static(part) for part in held]]
  except (ValueError, RecursionError) as error:  # An empty cell, or a function that holds itself.
    raise NotDescribedError(f"the closure of {value.__qualname__}") from error


def _name(kind: type) -> str:
  return f"{kind.__module__}.{kind.__qualname__}"
