#!/usr/bin/env python
"""Measures what exchanges of bits after a search would bring, judged on images that the weights have never seen.

  python scripts/refinement.py runs/ledger/seed_10/reference runs/ledger/seed_13/reference
  python scripts/refinement.py

For runs on digit_pairs/small: the training images that digit_pairs/full has besides are made from the same digits, and
no weight has seen them. From the selection of each target, and from the assignment of the sensitivity, assignments that
differ in one layer, or in two of which one rises and one falls, are tried in random order, until none is better than
the current one. Better means that the mean difference in loss, image by image, is below 0 by more than half of its
standard error; a trial ends after the first batch at which it is not. The results are written to
docs/evidence/refinement.json, and the table of docs/evidence.md is made from them. Without a folder, only the table is
made again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import pathlib
import time
from typing import Any

from absl import app, flags
from absl import logging as absl_logging
import numpy as np
import seed_results

from metamix_jax.command_line import exit_on_user_error, flags_parser
from metamix_jax.config_file import load_config
from metamix_jax.errors import UserError
from metamix_jax.method.assignments import Bits, assign_by_sensitivity, neighbours
from metamix_jax.method.bops import LayerCost
from metamix_jax.records.files import replace_between
from metamix_jax.records.paths import local_folder
from metamix_jax.records.progress import log_to_terminal
from metamix_jax.records.search_quality import verdict_of_interval
from metamix_jax.records.summary import current_versions
from metamix_jax.reporting import saved_run

ROOT = pathlib.Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "docs" / "evidence" / "refinement.json", ROOT / "docs" / "evidence.md"
BEGIN, END = "<!-- The table below is written by scripts/refinement.py. -->", "<!-- The end of that table. -->"
SETTINGS = ROOT / "configs" / "search_quality.py"  # Of the sensitivity and of the intervals.
DATA, BATCH_SIZE = "digit_pairs/small", 500  # Five images of each class.
_BATCHES = flags.DEFINE_integer("batches", 4, "Of 500 unseen images each, that judge.", lower_bound=1, upper_bound=38)
# Returns the losses of an assignment batch by batch, each float [N], always for the same images.
LossesInTurn = Callable[[Bits], Iterator[np.ndarray]]


@exit_on_user_error("refinement")
def main(argv):
  """Measures and writes the table; a UserError becomes one sentence and status 2."""
  absl_logging.set_verbosity(absl_logging.FATAL)
  log_to_terminal()
  text = table(seed_results.measure(RESULTS, map(local_folder, argv[1:]), measure))
  replace_between(PAGE, BEGIN, END, text)
  print(f"{text}\nWritten: {RESULTS}, {PAGE}")


def measure(workdir: pathlib.Path) -> dict[str, Any]:
  """Refines the selection and the sensitivity's assignment of every target of a run, and compares them on test images.

  Args:
    workdir: DIR of a run on digit_pairs/small with a finished search.

  Returns:
    For JSON: "seed", "images" that judged, "versions", and "targets", [{"target", "selected": scores of the selection,
    "sensitivity": scores, "from": {start: scores of the refined assignment, with "accepted", "judged" (numbers of
    assignments), "images" and "seconds"}}]. Scores are "gbops", "loss" and "top1" on the evaluation split, and
    "difference" of the loss to the selection's with its "interval".
  """
  # Here, because JAX and TensorFlow take seconds to load.
  from metamix_jax.training.judge import Judge, compare_assignments, describe_assignment, evaluation_judge
  from metamix_jax.training.saved_search import load_meta_state, open_run
  from metamix_jax.training.sensitivity import measure_sensitivity

  run = saved_run.read(workdir)
  if run.config["data.name"] != DATA:
    raise UserError(f"{workdir} holds a run on {run.config['data.name']}; it must be on {DATA}, to have unseen images.")
  context = open_run(workdir)
  settings = load_config(SETTINGS)
  meta, layers = load_meta_state(context, workdir), context.network.layers
  unseen, tested = Judge(context, meta, unseen_batches(_BATCHES.value)), evaluation_judge(context, meta)
  alone = measure_sensitivity(context, meta, workdir, settings.judging_batches)

  def described(bits, selected):
    difference, interval = compare_assignments(
        tested.score, bits, selected, settings.num_resamples, np.random.default_rng(0))
    return describe_assignment(tested.score, layers, bits) | {"difference": difference, "interval": interval}

  targets = []
  for target in run.target_results:
    starts = {"selected": dict(target.bits), "sensitivity": assign_by_sensitivity(
        layers, alone, target.target_gbops, target.tolerance)}
    entry = {"target": target.target_gbops, "from": {}} | {
        name: described(bits, target.bits) for name, bits in starts.items()}
    for name, start in starts.items():
      begun = time.perf_counter()
      refined, counts = refine(
          layers, start, target.target_gbops, lambda bits: (scores.losses for scores in unseen.score_in_turn(bits)),
          np.random.default_rng(0))
      entry["from"][name] = described(refined, target.bits) | counts | {
          "seconds": round(time.perf_counter() - begun, 1)}
      print(f"{workdir}, {target.target_gbops:g}, from {name}: {entry['from'][name]}", flush=True)
    targets.append(entry)
  return {"seed": run.config["seed"], "images": unseen.num_images, "targets": targets,
          "versions": current_versions()}


def unseen_batches(number: int) -> Iterator[dict[str, np.ndarray]]:
  """Yields batches of 500 training images, five of each class, that digit_pairs/full has and digit_pairs/small not."""
  from metamix_jax.data import digit_pairs, digits

  originals = digit_pairs.Originals.load(digits.split_indices()["train"])
  first = digit_pairs.TRAIN_IMAGES_PER_CLASS["small"]
  per_batch = BATCH_SIZE // digit_pairs.NUM_CLASSES
  for batch in range(number):
    parts = [
        digit_pairs.draw_one_of_each_class(originals, np.random.default_rng((digit_pairs.SEED, 0, first + image)))
        for image in range(per_batch * batch, per_batch * (batch + 1))]
    yield {
        "image": np.concatenate([images for images, _, _ in parts]),
        "label": np.concatenate([labels for _, labels, _ in parts]).astype(np.int32),
        "mask": np.ones(BATCH_SIZE, np.float32)}


def refine(
    layers: Sequence[LayerCost], start: Mapping[str, int], most_gbops: float, losses_of: LossesInTurn,
    rng: np.random.Generator
) -> tuple[Bits, dict[str, int]]:
  """Improves an assignment by better neighbours until there is none, as the docstring of this file says.

  Args:
    layers: every quantised layer.
    start: bits of each searched layer.
    most_gbops: highest cost in GBOPs of one image.
    losses_of: the judge.
    rng: the source of the order.

  Returns:
    The assignment, and {"accepted", "judged": numbers of assignments, "images": images on which they were}.
  """
  best, counts = dict(start), {"accepted": 0, "judged": 0, "images": 0}
  best_losses = list(losses_of(best))
  improved = True
  while improved:
    improved = False
    candidates = list(neighbours(layers, best, most_gbops))
    for index in rng.permutation(len(candidates)):
      counts["judged"] += 1
      losses = []
      for batch in losses_of(candidates[index]):
        losses.append(batch)
        counts["images"] += len(batch)
        difference = np.concatenate(losses).astype(np.float64) - np.concatenate(best_losses[:len(losses)])
        if difference.mean() >= -0.5 * difference.std(ddof=1) / np.sqrt(len(difference)):
          break
      else:
        best, best_losses, improved = candidates[index], losses, True
        counts["accepted"] += 1
        break
  return best, counts


def table(entries: Sequence[Mapping[str, Any]]) -> str:
  """Returns the results as a table in Markdown, with a row for each start."""
  lines = ["| seed | target | start | its loss, top-1 | accepted of judged | refined: cost, loss, top-1 | against the "
           "selection | seconds |", "|---|---|---|---|---|---|---|---|"]
  for entry in entries:
    for target in entry["targets"]:
      for name, refined in target["from"].items():
        begun = target[name]
        lines.append(
            f"| {entry['seed']} | {target['target']:g} | {name} | {begun['loss']:.3f}, {begun['top1']:.2f} | "
            f"{refined['accepted']} of {refined['judged']} | {refined['gbops']:.4f}, {refined['loss']:.3f}, "
            f"{refined['top1']:.2f} | {refined['difference']:+.3f}, {verdict_of_interval(*refined['interval'])} | "
            f"{refined['seconds']:.0f} |")
  return "\n".join(lines) + "\n"


if __name__ == "__main__":
  app.run(main, flags_parser=flags_parser("refinement"))
