"""The folder of a run, and the config and the data that it belongs to."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import json
import logging
import pathlib
from typing import Any

import ml_collections

from metamix_jax.config_file import flatten
from metamix_jax.errors import UserError
from metamix_jax.records import folder_lock, multihost
from metamix_jax.records.files import write_json
from metamix_jax.records.results import parse_results

logger = logging.getLogger("metamix_jax")

# Fields that may change from start to start, because no number of the run depends on them.
CHANGEABLE = (
    "arch.train_targets",  # Which phases are run, not what a phase does.
    "checkpoints.every_steps", "checkpoints.max_to_keep",
    "data.data_dir",  # Where the data are; check_data looks at what they are.
    "data.num_threads",  # Records keep their order, and their random numbers go with their places in it.
    "log_every_seconds",
    "metrics.alarm_records", "metrics.every_steps", "metrics.tensorboard",
    "teacher.kept_gigabytes", "teacher.kept_targets",  # What is read is what would be computed, bit for bit.
)

# Fields that older runs do not have, with the values that they ran with.
YOUNGER_FIELDS = {
    "arch.at_most": None, "arch.cost": "bops", "arch.multiplier_learning_rate": 0.1, "data.repeat_epochs": None,
    "quantization.candidate_weight_bits": None,
    "quantization.layer_bits": None, "teacher.kept_classes": None, "teacher.kept_gigabytes": 10.0,
    "teacher.kept_targets": None}


@contextlib.contextmanager
def hold_workdir(workdir: pathlib.Path) -> Iterator[None]:
  """Holds DIR/lock in a with statement (folder_lock.hold): the first process does, for all processes of the run.

  Raises:
    UserError: another run holds the folder, or it cannot be written to; in every process.
  """
  with contextlib.ExitStack() as stack:
    with multihost.failing_together():
      if multihost.is_lead_process():
        stack.enter_context(folder_lock.hold(workdir))
    yield


def check_workdir(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Writes DIR/config.json, every field, or checks that the one there is of this config.

  The file stays as the first start wrote it. Fields of CHANGEABLE may differ, and a line in the log says which do. All
  others may not. evaluate_every_epochs decides which step is the best one, which the summary has;
  evaluation_batch_size changes the rounding of logits; data.corrupt_records changes the order of small splits.

  Raises:
    UserError: the folder holds a run of another config (the sentence names the first field that differs), or the file
      is damaged.
  """
  path = workdir / "config.json"
  fields = json.loads(json.dumps(flatten(config)))
  _write_once(path, fields)
  earlier = read_saved_config(path)
  changes = []
  for name in sorted(set(earlier) | set(fields)):
    if earlier.get(name, YOUNGER_FIELDS.get(name)) == fields.get(name):
      continue
    if name in CHANGEABLE:
      if name in earlier:
        changes.append(f"{name} was {earlier[name]!r} and is {fields[name]!r}")
    else:
      raise UserError(
          f"workdir {workdir} holds a run of another config: {name} is {earlier.get(name)!r} there and "
          f"{fields.get(name)!r} here; choose another workdir.")
  if changes:
    logger.info("config: since the first start, %s", "; ".join(changes))


def check_data(workdir: pathlib.Path, description: Mapping[str, Any]) -> None:
  """Writes DIR/data.json, a description of the data, or checks that the data still fit it.

  Args:
    workdir: DIR.
    description: from data.describe: name, version, classes, images by split, and perhaps digests.

  Raises:
    UserError: the data changed since the run began, or the file is damaged; one sentence says what changed.
  """
  path = workdir / "data.json"
  _write_once(path, description)
  try:
    earlier = json.loads(path.read_text(encoding="utf-8"))
    change = _data_change(earlier, json.loads(json.dumps(description)))
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(
        f"{path} cannot be read ({error}); it is damaged. Delete it to continue the run if its data did not change, or"
        " choose another workdir.") from error
  if change is not None:
    raise UserError(
        f"workdir {workdir} holds a run on other data: {change}; bring the earlier data back, or choose another"
        " workdir.")


def check_quantizer(workdir: pathlib.Path, quantizer: Sequence[Callable]) -> None:
  """Checks that the functions that quantise have the names that DIR/network.json has of them; config.json knows none.

  Raises:
    UserError: a run of this folder began with other functions.
  """
  path, names = workdir / "network.json", names_of_functions(quantizer)
  if not path.exists():
    return
  earlier = parse_results(path, lambda: json.loads(path.read_text(encoding="utf-8")).get("quantizer", names))
  if earlier != names:
    raise UserError(
        f"workdir {workdir} holds a run with another quantizer: it was {', '.join(map(str, earlier))} and is "
        f"{', '.join(names)}; hand the same functions to `prepare`, or choose another workdir.")


def names_of_functions(functions: Sequence[Callable]) -> list[str]:
  """Returns the module and name of each function; of a callable object, those of its class."""
  named = [function if hasattr(function, "__qualname__") else type(function) for function in functions]
  return [f"{function.__module__}.{function.__qualname__}" for function in named]


def _write_once(path, values):
  """Writes JSON where the file does not exist: the first process does, for all of them."""
  with multihost.failing_together():
    if multihost.is_lead_process() and not path.exists():
      write_json(path, values)


def _data_change(earlier, now):
  """Returns the first difference between two descriptions of data, in words; None if they are equal."""
  for field in ("name", "version"):
    if earlier[field] != now[field]:
      return f"its {field} was {earlier[field]} and is {now[field]}"
  if earlier["classes"] != now["classes"]:
    gone, added = (
        [name for name in names if name not in others]
        for names, others in ((earlier["classes"], set(now["classes"])), (now["classes"], set(earlier["classes"]))))
    if not gone and not added:
      return "its classes have another order"
    changes = [
        f"{len(names)} classes are {verb} ({', '.join(map(repr, names[:5]))}{', ...' if len(names) > 5 else ''})"
        if len(names) > 1 else f"class {names[0]!r} is {verb}"
        for names, verb in ((gone, "gone"), (added, "new")) if names]
    return " and ".join(changes)
  for split in sorted(set(earlier["images"]) | set(now["images"])):
    before, after = (images.get(split, 0) for images in (earlier["images"], now["images"]))
    if before != after:
      return f"split {split!r} had {before} images and has {after}"
  before, after = (digests.get("digests", {}) for digests in (earlier, now))
  for folder in sorted(set(before) | set(after)):
    if before.get(folder) != after.get(folder):
      return (f"the images in {folder} have other names, or the first of them has other content (delete data.json if"
              " you repaired it)")
  return None


def read_saved_config(path: pathlib.Path) -> dict[str, Any]:
  """Returns the fields of a run's config.json, {"section.field": value}.

  Raises:
    UserError: the file is damaged or empty; the sentence names it and the remedy.
  """
  try:
    fields = json.loads(path.read_text())
    if not isinstance(fields, dict):
      raise ValueError("it holds no JSON object")
  except (OSError, ValueError) as error:
    raise UserError(
        f"{path} cannot be read ({error}); it is damaged. Delete it to continue the run in its folder with the config"
        " that you pass, which must be the one that the run started with, or choose another workdir.") from error
  return fields


def load_config_of_run(workdir: pathlib.Path) -> ml_collections.ConfigDict:
  """Returns the config that a run's folder belongs to, locked; `training.context.prepare` checks its values.

  Raises:
    UserError: the folder does not hold a run, or its config.json is damaged.
  """
  path = workdir / "config.json"
  if not path.exists():
    raise UserError(f"{workdir} is not the folder of a run: it has no config.json.")
  config = ml_collections.ConfigDict()
  for name, value in (YOUNGER_FIELDS | read_saved_config(path)).items():
    *sections, field = name.split(".")
    section = config
    for part in sections:
      if part not in section:
        section[part] = ml_collections.ConfigDict()
      section = section[part]
    value = _with_tuples(value)
    section[field] = ml_collections.ConfigDict(value) if isinstance(value, dict) else value
  return config.lock()


def _with_tuples(value: Any) -> Any:
  """Returns a value of a JSON file with tuples for lists, as config files write them."""
  if isinstance(value, list):
    return tuple(map(_with_tuples, value))
  if isinstance(value, dict):
    return {name: _with_tuples(entry) for name, entry in value.items()}
  return value
