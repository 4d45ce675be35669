"""One run from a config and a folder: checks, phases in order, checkpoints between them, the report."""

import json
import logging
import pathlib
import time

import jax
import ml_collections
import numpy as np

from metamix_jax import config as config_rules
from metamix_jax import parallel, phases, report, selection
from metamix_jax.bops import attainable_range, gbops, trace_layers
from metamix_jax.checkpoints import PhaseCheckpoints
from metamix_jax.layers import QuantizationScheme
from metamix_jax.models import create_network
from metamix_jax.precision import FULL_PRECISION, assigned_precision
from metamix_jax.state import MetaState, Network, Teacher
from metamix_jax.steps import AXIS

logger = logging.getLogger("metamix_jax")


def prepare(config: ml_collections.ConfigDict) -> phases.Task:
  """Checks a config and builds what the phases need; compiles nothing.

  Raises:
    ValueError: one sentence naming what is wrong with the config.
  """
  config_rules.validate(config)
  devices = jax.local_devices()
  for name in ("batch_size", "evaluation_batch_size"):
    config_rules.check_batch_size(name, config[name], len(devices))
  scheme = QuantizationScheme(
      config.quantization.candidate_bits, config.quantization.weight_bits, config.quantization.fixed_bits,
      axis_name=AXIS, depthwise=config.quantization.depthwise)
  options = config.network.options.to_dict()
  create_network(config.network.name, 2, scheme, options)  # A wrong name is found before TensorFlow is loaded.

  from metamix_jax import data  # pylint: disable=g-import-not-at-top  Loads TensorFlow: seconds.
  dataset = data.open_dataset(config.data.name, config.data.data_dir)
  info = data.dataset_info(
      dataset, train_split=config.data.train_split, evaluation_split=config.data.evaluation_split)
  config_rules.check_batch_size("batch_size", config.batch_size, len(devices), info.num_train)
  for name in ("mean", "deviation"):
    if len(config.data[name]) != info.channels:
      raise ValueError(f"config.data.{name} is {config.data[name]}; the images have {info.channels} channels.")
  image_shape = (config.data.image_size, config.data.image_size, info.channels)
  module = create_network(config.network.name, info.num_classes, scheme, options)
  layers = trace_layers(module, image_shape)
  config_rules.check_target(config.arch.target_gbops, attainable_range(layers))
  if config.bits_from is not None:
    selection.read_selected_bits(config.bits_from, layers)
  network = Network(
      module, layers, config.data.mean, config.data.deviation, config.quantization.step_size_floor)

  def train_epoch(epoch):
    return data.train_epoch(
        dataset, split=config.data.train_split, image_size=config.data.image_size, batch_size=config.batch_size,
        seed=config.seed, epoch=epoch, max_shift=config.data.max_shift)

  def evaluation_batches():
    return data.evaluation_batches(
        dataset, split=config.data.evaluation_split, image_size=config.data.image_size,
        batch_size=config.evaluation_batch_size)

  return phases.Task(
      config, network, info.num_classes, image_shape, info.num_train // config.batch_size, train_epoch,
      evaluation_batches, parallel.make_programs(devices))


def claim_workdir(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Writes DIR/config.json, or checks that the one there is of this config.

  Raises:
    ValueError: the folder holds a run of another config; the sentence names the first field that differs.
  """
  path = workdir / "config.json"
  fields = json.loads(json.dumps(config_rules.flatten(config)))
  if path.exists():
    earlier = json.loads(path.read_text())
    for name in sorted(set(earlier) | set(fields)):
      if earlier.get(name) != fields.get(name):
        raise ValueError(
            f"workdir {workdir} holds a run of another config: {name} is {earlier.get(name)!r} there and "
            f"{fields.get(name)!r} here; choose another workdir.")
    return
  workdir.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(fields, indent=2) + "\n")


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> dict:
  """All phases; returns the summary that DIR/report/summary.json holds. Finished phases are not run again.

  Raises:
    ValueError: the config, the workdir or the bits_from file is wrong; before any compilation.
  """
  task = prepare(config)
  claim_workdir(config, workdir)
  checkpoints = PhaseCheckpoints(workdir / "checkpoints")
  seconds = {}

  def phase(name: str, meta: MetaState, compute):
    """The phase's state and results: restored if it is finished, computed and saved otherwise."""
    if checkpoints.finished(name):
      logger.info("%s: restored from %s", name, workdir)
      saved, results = checkpoints.restore(name, _saved(meta))
      meta = meta.replace(**saved)
    else:
      start = time.monotonic()
      meta, results = compute(meta)
      jax.block_until_ready(meta)
      results["seconds"] = time.monotonic() - start
      checkpoints.save(name, _saved(meta), results)
    seconds[name] = results["seconds"]
    return task.replicate(meta), results

  def pretraining(meta):
    meta = phases.pretrain(task, meta)
    return meta, {"full_precision_top1": phases.evaluate(task, meta, FULL_PRECISION)}

  meta, pretrained = phase("pretraining", phases.create_student(task), pretraining)
  logger.info("full_precision_top1 %.2f", pretrained["full_precision_top1"])
  teacher = Teacher(meta.weights, meta.batch_stats, meta.network)

  def bit_selection(meta):
    if config.bits_from is not None:
      candidates = selection.read_selected_bits(config.bits_from, task.network.layers)
      most_probable = candidates
    else:
      meta, arch = phases.select_bits(task, meta, phases.create_architecture(task), teacher)
      alpha = {name: np.asarray(values) for name, values in arch.alpha.items()}
      most_probable = selection.most_probable_candidates(alpha)
      candidates = selection.settle_candidates(
          task.network.layers, alpha, config.arch.target_gbops, config.arch.target_tolerance)
    return meta, {"candidates": candidates, "most_probable": most_probable}

  meta, selected = phase("bit_selection", phases.start_step_sizes(task, meta), bit_selection)
  candidates = selected["candidates"]
  selection.write_selected_bits(workdir / "selected_bits.json", task.network.layers, candidates)
  selected_gbops = gbops(task.network.layers, selection.bits_of(task.network.layers, candidates))
  logger.info("selected %.6f GBOPs, target %.6f", selected_gbops, config.arch.target_gbops)

  def meta_evaluation(meta):
    return meta, {
        "meta_state_top1": phases.evaluate_meta_state(task, meta),
        "selected_top1": phases.evaluate_selected(task, meta, candidates),
    }

  meta, from_meta_state = phase("meta_evaluation", meta, meta_evaluation)
  evaluated = pretrained | from_meta_state
  for stage, result_name in (("stage_a", "stage_a_top1"), ("stage_b", "final_top1")):
    if stage == "stage_b":
      meta = meta.with_weight_step_sizes()

    def weight_training(meta, stage=stage, result_name=result_name):
      meta = phases.train_weights(task, stage, meta, candidates, teacher)
      precision = assigned_precision(task.network.layers, candidates)
      return meta, {result_name: phases.evaluate(task, meta, precision)}

    meta, results = phase(stage, meta, weight_training)
    logger.info("%s %.2f", result_name, results[result_name])
    evaluated |= results

  summary = report.summarize(
      config, task.network.layers, candidates, selected["most_probable"], evaluated, seconds)
  report.write_summary(workdir / "report" / "summary.json", summary)
  return summary


def _saved(meta: MetaState) -> dict:
  return {"weights": meta.weights, "step_sizes": meta.step_sizes, "batch_stats": meta.batch_stats}
