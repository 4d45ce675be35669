#!/usr/bin/env python
"""Measures how far a target may be from the searched ones before a search of its own selects better bits.

  python -m metamix_jax.main --config=configs/unseen_targets.py:runs/digit_pairs --workdir=runs/unseen_targets
  python scripts/unseen_targets.py runs/unseen_targets
  python scripts/unseen_targets.py --table

The run has searched many targets. Some searches are kept and the others forgotten: bits for the forgotten targets are
then chosen from the kept searches, as scripts/choose.py does it, and compared with the bits of their own searches,
straight from the meta-state, image by image on the evaluation split. The results are written to
docs/evidence/unseen_targets.json, and the table of docs/targets.md is made from them. The third command makes the
table again, from the results that are there.
"""

from collections.abc import Callable, Mapping, Sequence
import json
import pathlib
import statistics
from typing import TYPE_CHECKING, Any

from absl import app, flags
from absl import logging as absl_logging
import numpy as np

from metamix_jax.command_line import exit_on_user_error, flags_parser, folder_of_run
from metamix_jax.config_file import load_config
from metamix_jax.errors import UserError
from metamix_jax.method.selection import alpha_for_target, weights_of_searches
from metamix_jax.records.alpha import read_alpha
from metamix_jax.records.files import replace_between, write_json
from metamix_jax.records.limits import read_limits
from metamix_jax.records.paths import PATH_FIELDS
from metamix_jax.records.progress import log_to_terminal, show_bar
from metamix_jax.records.search_quality import verdict_of_interval
from metamix_jax.records.summary import current_versions
from metamix_jax.reporting import saved_run

if TYPE_CHECKING:
  from metamix_jax.training.judge import ImageScores

ROOT = pathlib.Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "docs" / "evidence" / "unseen_targets.json", ROOT / "docs" / "targets.md"
SETTINGS = ROOT / "configs" / "search_quality.py"  # Of the intervals.
BEGIN, END = "<!-- The table below is written by scripts/unseen_targets.py. -->", "<!-- The end of the table. -->"
_TABLE = flags.DEFINE_bool("table", False, "Make the table from the results that are there, and measure nothing.")


@exit_on_user_error("unseen_targets")
def main(argv):
  """Measures and writes the table; a UserError becomes one sentence and status 2."""
  if not _TABLE.value:
    workdir = folder_of_run(argv)
    run = saved_run.read(workdir)
    if len(run.target_results) < 5:
      raise UserError(
          f"{workdir} holds a run with {len(run.target_results)} searched targets; it must have 5 or more, so that some"
          " can be forgotten.")
    absl_logging.set_verbosity(absl_logging.FATAL)
    log_to_terminal()
    write_json(RESULTS, measure(workdir, run))
  if not RESULTS.exists():
    raise UserError(f"{RESULTS} is missing; measure a run first.")
  text = table(json.loads(RESULTS.read_text(encoding="utf-8")))
  replace_between(PAGE, BEGIN, END, text)
  print(f"{text}\nWritten: {RESULTS}, {PAGE}")


def kept_searches(targets: Sequence[float]) -> dict[str, list[float]]:
  """Returns which of some ascending targets keep their searches, by the words for them, from many kept to few."""
  steps = {word: step for word, step in {"second": 2, "fourth": 4, "eighth": 8}.items() if step < len(targets)}
  kept = {f"every {word} and the last": [*targets[:-1:step], targets[-1]] for word, step in steps.items()}
  kept |= {"the first and the last": [targets[0], targets[-1]], "the middle one": [targets[len(targets) // 2]]}
  return {words: searches for words, searches in kept.items() if list(kept.values()).count(searches) == 1
          or words == "the first and the last"}


def measure(workdir: pathlib.Path, run: saved_run.SavedRun) -> dict[str, Any]:
  """Returns the results of `compare` for a run, for JSON, with its config, its versions and the number of images."""
  # Here, because JAX and TensorFlow take seconds to load.
  from metamix_jax.training.judge import evaluation_judge
  from metamix_jax.training.saved_search import load_meta_state, open_run

  context = open_run(workdir)
  judge = evaluation_judge(context, load_meta_state(context, workdir))
  return compare(run, judge.score, load_config(SETTINGS).num_resamples) | {
      "config": {name: value for name, value in run.config.items() if name not in PATH_FIELDS},
      "num_images": judge.num_images, "versions": current_versions()}


def compare(
    run: saved_run.SavedRun, score: Callable[[Mapping[str, int]], "ImageScores"], num_resamples: int) -> dict[str, Any]:
  """Compares chosen with searched bits for the forgotten targets of every set of kept searches.

  Args:
    run: with searched targets.
    score: returns the scores of bits of the searched layers on the same images.
    num_resamples: of the images.

  Returns:
    "own", {target: {"gbops", "loss" in nats, "top1" in percent} of its own search}, and "kept", {words: {"searches",
    "forgotten": [{"target", "distance" to the nearest search as a share of the target, "searches" that served it,
    "gbops", "loss", "top1" of the chosen bits, "difference" of their loss to that of the searched bits, above 0 where
    those are better, and its "interval"}]}}.
  """
  from metamix_jax.training.judge import compare_assignments, describe_assignment

  layers, tolerance, alpha = run.layers, run.config["arch.target_tolerance"], read_alpha(run.folder, run.layers)
  limits = read_limits(layers, run.config.get("arch.at_most") or (), "config.arch.at_most")
  own = {result.target_gbops: dict(result.bits) for result in run.target_results}

  def compared(target, searches):
    served = alpha_for_target({search: alpha[search] for search in searches}, target)
    bits = limits.select(layers, served, target, tolerance)
    difference, interval = compare_assignments(
        score, bits, own[target], num_resamples, np.random.default_rng(round(target * 1e9)))
    return {
        "target": target, "distance": min(abs(search - target) / target for search in searches),
        "searches": list(weights_of_searches(searches, target)), **describe_assignment(score, layers, bits),
        "difference": difference, "interval": interval}

  sets = kept_searches(list(own))
  pairs = [(words, target) for words, searches in sets.items() for target in own if target not in searches]
  kept = {words: {"searches": searches, "forgotten": []} for words, searches in sets.items()}
  for words, target in show_bar(pairs, "targets", len(pairs), "target"):
    kept[words]["forgotten"].append(compared(target, sets[words]))
  return {"own": {
      f"{target:g}": describe_assignment(score, layers, bits) for target, bits in own.items()}, "kept": kept}


def table(results: Mapping[str, Any]) -> str:
  """Returns the results as a table in Markdown, with a row for each set of kept searches."""
  lines = [
      "| searches kept | number | targets chosen for | distance to the nearest, largest | loss, chosen minus searched: "
      "mean, largest | points of top-1, mean | chosen bits are better, equal, worse |", "|---|---|---|---|---|---|---|"]
  own = results["own"]
  for words, kept in results["kept"].items():
    forgotten = kept["forgotten"]
    differences = [entry["difference"] for entry in forgotten]
    top1 = statistics.mean(entry["top1"] - own[f"{entry['target']:g}"]["top1"] for entry in forgotten)
    # Of the chosen bits: a lower loss is better.
    verdicts = [verdict_of_interval(*entry["interval"]) for entry in forgotten]
    lines.append(
        f"| {words} | {len(kept['searches'])} | {len(forgotten)} | "
        f"{max(entry['distance'] for entry in forgotten):.0%} | {statistics.mean(differences):+.4f}, "
        f"{max(differences):+.4f} | {top1:+.2f} | "
        f"{', '.join(str(verdicts.count(word)) for word in ('better', 'equal', 'worse'))} |".replace("%", " %"))
  return "\n".join(lines) + "\n"


if __name__ == "__main__":
  app.run(main, flags_parser=flags_parser("unseen_targets"))
