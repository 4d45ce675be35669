"""One run from a config and a folder: checks, phases in order, checkpoints between them, the report."""

import json
import logging
import pathlib
import time

import jax
import ml_collections
import numpy as np
import optax

from metamix_jax import config as config_rules
from metamix_jax import phases, pretrained, processes, report, selection
from metamix_jax.bops import gbops
from metamix_jax.checkpoints import PhaseCheckpoints, keep_best
from metamix_jax.config import LABELS, RANDOM_WEIGHTS, STUDENT
from metamix_jax.loop import Interrupted, Saving, StopRequest
from metamix_jax.precision import FULL_PRECISION, assigned_precision
from metamix_jax.state import MetaState, Teacher, create_meta_state
from metamix_jax.task import Task, prepare

logger = logging.getLogger("metamix_jax")


def claim_workdir(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Writes DIR/config.json, or checks that the one there is of this config.

  Raises:
    ValueError: the folder holds a run of another config; the sentence names the first field that differs.
  """
  path = workdir / "config.json"
  fields = json.loads(json.dumps(config_rules.flatten(config)))
  if processes.is_first() and not path.exists():
    workdir.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields, indent=2) + "\n")
  processes.wait_for_all("config.json")
  earlier = json.loads(path.read_text())
  for name in sorted(set(earlier) | set(fields)):
    if earlier.get(name) != fields.get(name):
      raise ValueError(
          f"workdir {workdir} holds a run of another config: {name} is {earlier.get(name)!r} there and "
          f"{fields.get(name)!r} here; choose another workdir.")


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path, stop_request: StopRequest | None = None) -> dict:
  """All phases; returns the summary that DIR/report/summary.json holds. A run that is there already is continued.

  Args:
    config: a config.
    workdir: DIR.
    stop_request: asked after every step and phase; None: the run is never asked to stop.

  Raises:
    ValueError: the config, the workdir or the bits_from file is wrong, before any compilation; later on, a record that
      cannot be decoded, a loss that is not finite, or a checkpoint that cannot be written.
    Interrupted: the run was asked to stop, and everything is saved.
  """
  task = prepare(config)
  claim_workdir(config, workdir)
  checkpoints = PhaseCheckpoints(workdir / "checkpoints")
  saving = Saving(checkpoints.folder, stop_request or StopRequest())
  seconds, best = {}, {}

  def phase(name: str, meta: MetaState, compute):
    """The phase's state and results: restored if it is finished, computed and saved otherwise."""
    finished = checkpoints.restore(name, _saved(meta))
    if finished:
      logger.info("%s: restored from %s", name, workdir)
      saved, results = finished
      meta = meta.replace(**saved)
    else:
      start = time.monotonic()
      meta, results = compute(meta)
      jax.block_until_ready(meta)
      results["seconds"] = time.monotonic() - start + saving.earlier_seconds.get(name, 0.0)
      results["best"] = saving.best.get(name)
      checkpoints.save(name, _saved(meta), results)
    keep_best(saving.folder, name, results["best"] and results["best"]["step"])
    seconds[name], best[name] = results["seconds"], results["best"]
    if saving.stop_request.requested:
      raise Interrupted(f"stopped after {name}")
    return task.replicate(meta), results

  def pretraining(meta):
    if config.pretraining.weights is None:
      meta = phases.pretrain(task, meta, saving)
    else:
      meta = meta.replace(**pretrained.load(config.pretraining.weights, config.network.name, pretrained.arrays(meta)))
    return meta, {"full_precision_top1": phases.evaluate(task, meta, FULL_PRECISION)}

  meta, full_precision = phase("pretraining", phases.create_student(task), pretraining)
  logger.info("full_precision_top1 %.2f", full_precision["full_precision_top1"])
  teacher = create_teacher(task, meta)

  def bit_selection(meta):
    if config.bits_from is not None:
      candidates = selection.read_selected_bits(config.bits_from, task.network.layers)
      most_probable = candidates
    else:
      meta, arch = phases.select_bits(task, meta, phases.create_architecture(task), teacher, saving)
      alpha = {name: np.asarray(values) for name, values in arch.alpha.items()}
      most_probable = selection.most_probable_candidates(alpha)
      candidates = selection.settle_candidates(
          task.network.layers, alpha, config.arch.target_gbops, config.arch.target_tolerance)
    return meta, {"candidates": candidates, "most_probable": most_probable}

  meta, selected = phase("bit_selection", phases.start_step_sizes(task, meta), bit_selection)
  candidates = selected["candidates"]
  if processes.is_first():
    selection.write_selected_bits(workdir / "selected_bits.json", task.network.layers, candidates)
  selected_gbops = gbops(task.network.layers, selection.bits_of(task.network.layers, candidates))
  logger.info("selected %.6f GBOPs, target %.6f", selected_gbops, config.arch.target_gbops)

  def meta_evaluation(meta):
    return meta, {
        "meta_state_top1": phases.evaluate_meta_state(task, meta),
        "selected_top1": phases.evaluate_selected(task, meta, candidates),
    }

  meta, from_meta_state = phase("meta_evaluation", meta, meta_evaluation)
  evaluated = full_precision | from_meta_state
  for stage, result_name in (("stage_a", "stage_a_top1"), ("stage_b", "final_top1")):
    if stage == "stage_b":
      meta = meta.with_weight_step_sizes()

    def weight_training(meta, stage=stage, result_name=result_name):
      meta = phases.train_weights(task, stage, meta, candidates, teacher, saving)
      precision = assigned_precision(task.network.layers, candidates)
      return meta, {result_name: phases.evaluate(task, meta, precision)}

    meta, results = phase(stage, meta, weight_training)
    logger.info("%s %.2f", result_name, results[result_name])
    evaluated |= results

  summary = report.summarize(
      config, task.network.layers, candidates, selected["most_probable"], evaluated, seconds,
      processes.total(len(task.skipped_records.names) if task.skipped_records else 0), best)
  if processes.is_first():
    report.write_summary(workdir / "report" / "summary.json", summary)
  return summary


def create_teacher(task: Task, student: MetaState) -> Teacher | None:
  """The source of soft targets that config.teacher names; None: labels (M9).

  Args:
    task: the task.
    student: the full-precision network after pretraining.

  Raises:
    ValueError: the file of weights does not fit the teacher.
  """
  config = task.config.teacher
  if config.name == LABELS:
    return None
  if config.name == STUDENT:
    # Copies: the student's own arrays are donated to the next training step.
    weights, batch_stats = jax.tree.map(np.array, jax.device_get((student.weights, student.batch_stats)))
    return task.replicate(Teacher(weights, batch_stats, task.network, config.dtype))
  start = create_meta_state(task.teacher_network, optax.identity(), task.image_shape, task.config.seed)
  variables = pretrained.arrays(start)
  if config.weights != RANDOM_WEIGHTS:
    variables = pretrained.load(config.weights, config.name, variables)
  return task.replicate(Teacher(network=task.teacher_network, dtype=config.dtype, **variables))


def _saved(meta: MetaState) -> dict:
  return {"weights": meta.weights, "step_sizes": meta.step_sizes, "batch_stats": meta.batch_stats}
