"""Compiled steps, saved as files, so that a run that starts again does not trace them.

JAX's compilation cache saves compiling. Before it is asked, a step is traced and written out, which takes most of a
warm start. A program here is found by what tracing would read (program_identity.py), and loaded without it.
"""

from collections.abc import Callable, Sequence
import contextlib
import hashlib
import json
import logging
import os
import pathlib
import stat
import time
from typing import Any
import zlib

import jax
from jax.experimental import serialize_executable

from metamix_jax.errors import UserError
from metamix_jax.records.files import write_atomically
from metamix_jax.training.parallel import Programs, replicate
from metamix_jax.training.program_identity import NotDescribedError, identity

logger = logging.getLogger("metamix_jax")

# In a file, and in the description of a program's result.
LEAF, STATE = "leaf", "state"
_CACHE_HIT = "/jax/compilation_cache/cache_hits"


class _CacheHits:
  """Counts the programs of this process that came from JAX's cache."""

  def __init__(self):
    self.count = 0
    jax.monitoring.register_event_listener(self._listen)

  def _listen(self, event: str, **_):
    self.count += event == _CACHE_HIT


_cache_hits = _CacheHits()


def with_saved_programs(programs: Programs, folder: pathlib.Path) -> Programs:
  """Returns the same programs, which are loaded from a folder if it has them, and otherwise saved there.

  A program is saved if it took at least as long as JAX's cache asks (jax_persistent_cache_min_compile_time_secs), if it
  did not come from that cache, and if everything that it depends on can be described. Programs of several processes are
  not saved, nor are any on Windows, which does not say whose a file is.

  Args:
    programs: of parallel.make_programs.
    folder: only files that belong to the user, and that nobody else can write, are read there.
  """
  if jax.process_count() > 1 or not hasattr(os, "geteuid"):
    return programs
  saved: dict[str, Any] = {
      name: SavedProgram(name, mapped, programs.devices, folder) for name, mapped in programs._asdict().items()
      if name not in ("devices", "label_targets")}  # The latter has a static argument, and compiles in no time.
  return programs._replace(**saved)


class SavedProgram:
  """A mapped step that is loaded from a folder, or compiled and saved there, for each structure of its arguments."""

  def __init__(self, name: str, mapped: Any, devices: Sequence[jax.Device], folder: pathlib.Path):
    self._name, self._mapped, self._devices, self._folder = name, mapped, tuple(devices), folder
    self._programs: dict[Any, Callable] = {}

  def __call__(self, *arguments):
    """Runs the step as the mapped function does, which moves arrays to the devices; a compiled program does not."""
    *unmapped, batch = arguments
    if not self._on_devices(batch):
      return self._mapped(*arguments)
    arguments = (*(part if self._on_devices(part) else replicate(part, self._devices) for part in unmapped), batch)
    leaves, structure = jax.tree.flatten(arguments)
    key = structure, tuple((leaf.shape, leaf.dtype, leaf.weak_type, leaf.sharding) for leaf in leaves)
    if key not in self._programs:
      self._programs[key] = self.find(*arguments)
    return self._programs[key](*arguments)

  def _on_devices(self, tree: Any) -> bool:
    devices = set(self._devices)
    return all(isinstance(leaf, jax.Array) and leaf.sharding.device_set == devices for leaf in jax.tree.leaves(tree))

  def lower(self, *arguments) -> Any:
    """Traces the step, as the mapped function does."""
    return self._mapped.lower(*arguments)

  def find(self, *arguments) -> Callable:
    """Returns the program for these arguments, which are on the devices: loaded, or compiled and saved."""
    try:
      text = identity(self._name, self._mapped, arguments)
    except NotDescribedError as error:
      logger.debug("%s is not saved, for it depends on %s", self._name, error)
      return self._mapped
    digest = hashlib.sha256(text.encode()).hexdigest()
    path = self._folder / f"{digest}.{os.geteuid()}.program"  # Users of one folder do not replace each other's files.
    loaded = _read(path, digest, arguments, self._devices)
    if loaded is not None:
      return loaded
    begun, hits = time.monotonic(), _cache_hits.count
    compiled = self._mapped.lower(*arguments).compile()
    # XLA's CPU programs that come from JAX's cache do not run when they are saved and loaded once more.
    if time.monotonic() - begun >= _least_seconds() and _cache_hits.count == hits:
      _write(path, digest, compiled, arguments)
    return compiled


def _least_seconds() -> float:
  return jax.config.values["jax_persistent_cache_min_compile_time_secs"]


def _write(path: pathlib.Path, digest: str, compiled: jax.stages.Compiled, arguments: tuple[Any, ...]) -> None:
  """Saves a program: a line that says what follows, and the program itself. If it cannot be saved, the run goes on."""
  try:
    payload, _, structure = serialize_executable.serialize(compiled)
    result = _describe(structure, arguments)
  except Exception as error:  # JAX calls this experimental, and not every device can.
    logger.info("%s was not saved (%s)", path.name, error)
    return
  body = zlib.compress(payload, 1)
  head = {"identity": digest, "result": result, "sha256": _hash_of(result, body)}

  def write(partial):
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
      file.write(json.dumps(head).encode() + b"\n" + body)

  try:
    write_atomically(path, write)
  except UserError as error:
    logger.info("a compiled program was not saved: %s", error)


def _read(
    path: pathlib.Path, digest: str, arguments: tuple[Any, ...], devices: Sequence[jax.Device]
) -> jax.stages.Compiled | None:
  """Loads a program of this identity; None where there is none, or where the file is not the user's own and whole."""
  try:
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
      facts = os.fstat(file.fileno())
      if facts.st_uid != os.geteuid() or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        logger.info("not loaded, for others could have written it: %s", path)
        return None
      with contextlib.suppress(OSError):  # A folder that can only be read.
        os.utime(file.fileno())  # So that unused files can be told by their age.
      head, body = file.readline(), file.read()
    head = json.loads(head)
    if (head["identity"], head["sha256"]) != (digest, _hash_of(head["result"], body)):
      raise ValueError("its content is damaged")
    result = jax.tree.structure(_build(head["result"], arguments))
  except FileNotFoundError:
    return None
  except (OSError, ValueError, KeyError, TypeError) as error:
    logger.info("not loaded (%s): %s", error, path)
    return None
  try:
    return serialize_executable.deserialize_and_load(
        zlib.decompress(body), jax.tree.structure((arguments, {})), result, backend=devices[0].client,
        execution_devices=devices)
  except Exception as error:  # As above; the step is then compiled.
    logger.info("not loaded (%s): %s", error, path)
    return None


def _hash_of(result: Any, body: bytes) -> str:
  return hashlib.sha256(json.dumps(result).encode() + body).hexdigest()


def _describe(structure: Any, arguments: tuple[Any, ...]) -> Any:
  """Describes the structure of a program's result, whose state, if it has one, is that of the first argument.

  Raises:
    ValueError: the result has other parts than that state, dictionaries, tuples and arrays.
  """
  state = jax.tree.structure(arguments[0])

  def describe(part):
    if jax.tree.structure(part) == state:
      return STATE
    if isinstance(part, dict):
      return {name: describe(value) for name, value in part.items()}
    if type(part) is tuple:
      return [describe(value) for value in part]
    if type(part) is int:
      return LEAF
    raise ValueError(f"a result has a {type(part).__name__}.")

  return describe(jax.tree.unflatten(structure, range(structure.num_leaves)))


def _build(description: Any, arguments: tuple[Any, ...]) -> Any:
  """Builds a result of the structure that `_describe` described."""
  if isinstance(description, dict):
    return {name: _build(value, arguments) for name, value in description.items()}
  if isinstance(description, list):
    return tuple(_build(value, arguments) for value in description)
  return arguments[0] if description == STATE else 0
