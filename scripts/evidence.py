#!/usr/bin/env python
"""Collects the search quality of several runs, and writes the table of docs/evidence.md from it.

  python scripts/evidence.py runs/digit_pairs_seeds/*/
  python scripts/evidence.py

Each measured run (scripts/search_quality.py) becomes an entry of docs/evidence/search_quality.json, with its config
and the versions that made it; runs that were measured on different days add up. Without a folder, only the
table is written again.
"""

from collections.abc import Mapping, Sequence
import json
import pathlib
import statistics
from typing import Any

from absl import app

from metamix_jax.command_line import exit_on_user_error, flags_parser
from metamix_jax.errors import UserError
from metamix_jax.records.files import replace_between, write_json
from metamix_jax.records.paths import PATH_FIELDS, local_folder
from metamix_jax.records.search_quality import TargetQuality, verdict_of_interval
from metamix_jax.records.workdir import CHANGEABLE
from metamix_jax.reporting import saved_run

ROOT = pathlib.Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "docs" / "evidence" / "search_quality.json", ROOT / "docs" / "evidence.md"
BEGIN, END = "<!-- The table below is written by scripts/evidence.py. -->", "<!-- The end of the table. -->"
# A run of another value of these fields is another entry.
KEY_FIELDS = ("data.name", "seed", "quantization.candidate_bits", "arch.target_gbops")


@exit_on_user_error("evidence")
def main(argv):
  """Adds the runs and writes the table; a UserError becomes one sentence and status 2."""
  entries = json.loads(RESULTS.read_text(encoding="utf-8"))["runs"] if RESULTS.exists() else []
  for argument in argv[1:]:
    entries = with_entry(entries, describe(saved_run.read(local_folder(argument))))
  entries.sort(key=_key)
  write_json(RESULTS, {"runs": entries})
  replace_between(PAGE, BEGIN, END, table(entries))
  print(f"Written: {RESULTS}, {PAGE}")


def with_entry(entries: Sequence[Mapping[str, Any]], entry: Mapping[str, Any]) -> list[Mapping[str, Any]]:
  """Returns the entries with another one, which replaces an earlier measurement of its run.

  Raises:
    UserError: an entry with the same data, seed, bits and targets is of a run with another config.
  """
  for other in entries:
    if _key(other) == _key(entry) and _settings(other) != _settings(entry):
      raise UserError(
          f"{RESULTS} has a run on {entry['config']['data.name']} with seed {entry['config']['seed']} and the same bits"
          " and targets, but with another config; give that one, or delete its entry.")
  return [other for other in entries if _key(other) != _key(entry)] + [entry]


def describe(run: saved_run.SavedRun) -> dict[str, Any]:
  """Returns what the table needs of a measured run.

  Raises:
    UserError: the search quality of the run was not measured, or the run is not finished.
  """
  if run.search_quality is None or run.summary is None:
    raise UserError(f"{run.folder} is not a finished and measured run; scripts/search_quality.py measures one.")
  if run.config.get("arch.cost", "bops") != "bops":
    raise UserError(
        f"config.arch.cost of {run.folder} is {run.config['arch.cost']!r}; the table is of runs with 'bops'.")
  return {
      "config": dict(run.config), "full_precision_top1": run.full_precision_top1,
      "settings": dict(run.search_quality.settings), "num_images": run.search_quality.num_images,
      "num_random_images": run.search_quality.num_random_images, "seconds": dict(run.search_quality.seconds),
      "uniform": {str(bits): {"gbops": score.gbops, "loss": score.loss, "top1": score.top1}
                  for bits, score in run.search_quality.uniform.items()},
      "targets": [_describe_target(target) for target in run.search_quality.targets],
      "versions": run.summary["versions"]}


def _describe_target(target: TargetQuality) -> dict[str, Any]:
  losses = [score.loss for score in target.random]
  return {
      "target_gbops": target.target_gbops, "gbops": target.selected.gbops, "loss": target.selected.loss,
      "top1": target.selected.top1, "bits": dict(target.selected.bits), "percent_beaten": target.percent_beaten,
      "loss_beside_random": target.selected_beside_random.loss,
      "random_losses": [round(loss, 5) for loss in losses],
      "comparisons": [
          {"name": comparison.name, "loss": comparison.score.loss, "top1": comparison.score.top1,
           "difference": comparison.difference, "interval": list(comparison.interval)}
          for comparison in target.comparisons]}


def table(entries: Sequence[Mapping[str, Any]]) -> str:
  """Returns the results as tables in Markdown, with the counts below them."""
  lines = [
      "| seed | target | cost | top-1 | loss | against sensitivity | against local search | beside random: loss, best, "
      "median | beats |",
      "|---|---|---|---|---|---|---|---|---|"]
  beaten, verdicts = [], {"sensitivity": [], "local search": []}
  for entry in entries:
    for target in entry["targets"]:
      comparisons = {comparison["name"]: comparison for comparison in target["comparisons"]}
      cells = []
      for name, found in verdicts.items():
        found.append(verdict_of_interval(*comparisons[name]["interval"]))
        cells.append(f"{comparisons[name]['difference']:+.3f}, {found[-1]}")
      beaten.append(target["percent_beaten"])
      lines.append(
          f"| {entry['config']['seed']} | {target['target_gbops']:g} | {target['gbops']:.4f} | {target['top1']:.2f} | "
          f"{target['loss']:.3f} | {' | '.join(cells)} | {target['loss_beside_random']:.3f}, "
          f"{min(target['random_losses']):.3f}, {statistics.median(target['random_losses']):.3f} | "
          f"{target['percent_beaten']:.3g} % of {len(target['random_losses'])} |")
  lines.append("")
  if beaten:
    lines += [
        f"{sum(share >= 99 for share in beaten)} of {len(beaten)} selections beat at least 99 % of their random "
        f"assignments; the lowest share is {min(beaten):.3g} %."]
    lines += [
        f"Against {name}: {', '.join(f'{found.count(word)} {word}' for word in ('better', 'equal', 'worse'))}."
        for name, found in verdicts.items()]
    lines.append(f"Layers with the same bits in all searches for a target: {_agreement(entries)}.")
  return "\n".join(lines) + "\n"


def _agreement(entries):
  """Returns "21 of 21 (0.07 GBOPs), ..." of all targets."""
  by_target = {}
  for entry in entries:
    for target in entry["targets"]:
      by_target.setdefault((target["target_gbops"], *target["bits"]), []).append(target["bits"])
  parts = []
  for (target, *_), assignments in by_target.items():
    agreed = sum(len({bits[name] for bits in assignments}) == 1 for name in assignments[0])
    parts.append(f"{agreed} of {len(assignments[0])} ({target:g} GBOPs)")
  return ", ".join(parts)


def _settings(entry):
  """Returns the config of a run without what may differ between machines."""
  return json.loads(json.dumps({
      name: value for name, value in entry["config"].items() if name not in (*PATH_FIELDS, *CHANGEABLE)}))


def _key(entry):
  return [json.dumps(entry["config"][name]) for name in KEY_FIELDS]


if __name__ == "__main__":
  app.run(main, flags_parser=flags_parser("evidence"))
