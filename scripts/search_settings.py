#!/usr/bin/env python
"""Searches with several settings on finished meta-states, and compares what they select.

  python scripts/search_settings.py runs/ledger/seed_10/reference runs/ledger/seed_11/reference
  python scripts/search_settings.py

Each folder holds a run whose bit selection is finished. Bits are searched again on its meta-state with every setting of
configs/search_settings.py and for every target there, and the selections are compared straight from the meta-state,
image by image on the evaluation split. The results of a seed are kept in docs/evidence/search_settings/, one file a
seed, and are not made again; the table of docs/evidence.md is made from all of them. Without a folder, only the table
is made. On CPUs, run `source scripts/cpu_environment.sh` first.
"""

from collections.abc import Mapping, Sequence
import copy
import json
import pathlib
import statistics
import time
from typing import Any

from absl import app
from absl import logging as absl_logging
from claims.verdicts import interval_of_mean
import ml_collections
import numpy as np

from metamix_jax.command_line import define_path, exit_on_user_error, flags_parser
from metamix_jax.config_file import flatten, load_config
from metamix_jax.errors import UserError
from metamix_jax.records.alpha import read_alpha
from metamix_jax.records.files import replace_between, write_json
from metamix_jax.records.names import format_target
from metamix_jax.records.paths import PATH_FIELDS, local_folder
from metamix_jax.records.progress import log_to_terminal
from metamix_jax.records.search_quality import verdict_of_interval
from metamix_jax.records.workdir import load_config_of_run

ROOT = pathlib.Path(__file__).parents[1]
FOLDER, PAGE = ROOT / "docs" / "evidence" / "search_settings", ROOT / "docs" / "evidence.md"
BEGIN, END = "<!-- The table below is written by scripts/search_settings.py. -->", "<!-- The end of the settings. -->"
OWN = "as shipped, beside bit-meta training"  # The search of the run itself.
SETTINGS = ROOT / "configs" / "search_settings.py"
_SETTINGS = define_path("settings", SETTINGS, "The settings, a Python file with get_config().")


@exit_on_user_error("search_settings")
def main(argv):
  """Searches, compares and writes the table; a UserError becomes one sentence and status 2."""
  absl_logging.set_verbosity(absl_logging.FATAL)
  log_to_terminal()
  settings = load_config(_SETTINGS.value)
  for folder in map(local_folder, argv[1:]):
    measure(folder, settings, FOLDER)
  searches = [search for path in sorted(FOLDER.glob("seed_*.json"))
              for search in json.loads(path.read_text(encoding="utf-8"))["searches"]
              if search["target"] in settings.targets]
  if not searches:
    raise UserError(f"{FOLDER} has no results; measure a run first.")
  text = table(searches, [words for words, _ in settings.settings] + [OWN])
  replace_between(PAGE, BEGIN, END, text)
  print(f"{text}\nWritten: {PAGE}")


def measure(workdir: pathlib.Path, settings: ml_collections.ConfigDict, folder: pathlib.Path) -> None:
  """Searches with every setting and for every target on the meta-state of a run, and writes the results of its seed.

  Args:
    workdir: DIR of a run whose bit selection is finished.
    settings: of configs/search_settings.py.
    folder: of the results; FOLDER/seed_S.json has {"config" of the run without paths, "searches": [{"seed", "target",
      "setting", "changes", "gbops", "loss" in nats, "top1" in percent, "difference" of the loss to that of the first
      setting, its "interval", "bits", "seconds"}]}.

  Raises:
    UserError: the results of this seed are of another run, or of a setting with the same words and other values.
  """
  # Here, because JAX and TensorFlow take seconds to load.
  from metamix_jax.training.context import prepare
  from metamix_jax.training.judge import compare_assignments, describe_assignment, evaluation_judge
  from metamix_jax.training.saved_search import check_run, load_meta_state

  of_run = load_config_of_run(workdir)
  path = folder / f"seed_{of_run.seed}.json"
  fields = {name: value for name, value in json.loads(json.dumps(flatten(of_run))).items() if name not in PATH_FIELDS}
  earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"config": fields, "searches": []}
  if earlier["config"] != fields:
    raise UserError(f"{path} has the results of a run with another config than {workdir}; give that one, or delete it.")
  searches = earlier["searches"]
  context = prepare(of_run)
  check_run(context, workdir)
  layers = context.network.layers
  judge = evaluation_judge(context, load_meta_state(context, workdir))
  alpha = read_alpha(workdir, layers)
  for target in settings.targets:
    first = None
    for words, fields_changed in (*settings.settings, *([(OWN, ())] if target in alpha else [])):
      changes = tuple((dict(settings.common) | dict(fields_changed)).items())
      done = [search for search in searches if (search["target"], search["setting"]) == (target, words)]
      written = json.loads(json.dumps(changes))
      if done and done[0]["changes"] != written:
        raise UserError(f"{path} has results of {words!r} with the values {done[0]['changes']}, not {written}; choose "
                        "other words, or delete them.")
      if not done:
        begun = time.perf_counter()
        config = config_with(of_run, changes, target)
        bits = search_again(workdir, config) if words != OWN else context.limits.select(
            layers, alpha[target], target, config.arch.target_tolerance)
        seconds = time.perf_counter() - begun
        difference, interval = compare_assignments(
            judge.score, bits, first or bits, settings.num_resamples, np.random.default_rng(0))
        done = [{
            "seed": of_run.seed, "target": target, "setting": words, "changes": written,
            **describe_assignment(judge.score, layers, bits), "difference": difference, "interval": interval,
            "bits": dict(bits), "seconds": round(seconds, 1)}]
        searches += done
        write_json(path, {"config": fields, "searches": searches})
        print(f"seed {of_run.seed}, target {format_target(target)}, {words}: {done[0]['gbops']:.4f} GBOPs, loss "
              f"{done[0]['loss']:.4f}, top-1 {done[0]['top1']:.2f}", flush=True)
      first = first or done[0]["bits"]


def config_with(
    of_run: ml_collections.ConfigDict, changes: Sequence[tuple[str, Any]], target: float) -> ml_collections.ConfigDict:
  """Returns the config of a run with one target and the fields of a setting, in which {target} is replaced."""
  config = copy.deepcopy(of_run)

  def filled(value):
    if isinstance(value, tuple):
      return tuple(map(filled, value))
    return value.format(target=target) if isinstance(value, str) else value

  with config.unlocked(), config.ignore_type():  # The target may be a number and a tuple.
    config.update_from_flattened_dict({
        "arch.target_gbops": target, "arch.train_targets": (), **{name: filled(value) for name, value in changes}})
  return config


def search_again(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> dict[str, int]:
  """Returns the bits that a search for the one target of a config selects on the meta-state of a run."""
  import jax

  from metamix_jax.experiment import create_teacher
  from metamix_jax.training import phases
  from metamix_jax.training.context import prepare
  from metamix_jax.training.saved_search import load_full_precision, load_meta_state

  context = prepare(config)
  teacher = create_teacher(context, load_full_precision(context, workdir))
  _, archs = phases.search_bits(
      context, load_meta_state(context, workdir), phases.create_architectures(context), teacher)
  alpha = {name: values[0] for name, values in jax.device_get(archs.alpha).items()}
  jax.clear_caches()  # The programs of one setting would fill the memory with those of the next.
  return context.limits.select(
      context.network.layers, alpha, config.arch.target_gbops, config.arch.target_tolerance)


def table(searches: Sequence[Mapping[str, Any]], settings: Sequence[str]) -> str:
  """Returns the results as a table in Markdown, with a row for each setting that was tried.

  The difference in loss of a seed is the mean over its targets; its mean over the seeds has an interval from two on.
  """
  lines = ["| setting | searches | loss, less that of the first row: mean over the seeds, 95 % interval | points of "
           "top-1 | better, equal, worse | share of the target that is spent |", "|---|---|---|---|---|---|"]
  top1 = {(search["seed"], search["target"]): search["top1"] for search in searches if search["setting"] == settings[0]}
  for words in settings:
    tried = [search for search in searches if search["setting"] == words]
    if not tried:
      continue
    by_seed: dict[int, list[float]] = {}
    for search in tried:
      by_seed.setdefault(search["seed"], []).append(search["difference"])
    means = [statistics.fmean(differences) for differences in by_seed.values()]
    interval = "[{:+.4f}, {:+.4f}]".format(*interval_of_mean(means)) if len(means) > 1 else ""
    verdicts = [verdict_of_interval(*search["interval"]) for search in tried]
    points = statistics.fmean(search["top1"] - top1[search["seed"], search["target"]] for search in tried)
    lines.append(
        f"| {words} | {len(tried)} | {statistics.fmean(means):+.4f} {interval} | {points:+.2f} | "
        f"{', '.join(str(verdicts.count(word)) for word in ('better', 'equal', 'worse'))} | "
        f"{100 * statistics.fmean(search['gbops'] / search['target'] for search in tried):.1f} % |")
  return "\n".join(lines) + "\n"


if __name__ == "__main__":
  app.run(main, flags_parser=flags_parser("search_settings"))
