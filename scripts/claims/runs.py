"""The runs behind the claims, each in its folder; finished ones are read, interrupted ones continue.

  RUNS/pretrained                    the full-precision network, one for all claims and seeds
  RUNS/seed_10/NAME                  a search: bits and a meta-state
  RUNS/seed_10/NAME/trained/OTHER    weight training from that meta-state, at some bits
"""

from collections.abc import Callable, Mapping
import copy
import functools
import json
import pathlib
from typing import Any

import ml_collections

from metamix_jax import experiment
from metamix_jax.config_file import flatten
from metamix_jax.errors import UserError
from metamix_jax.method.bops import complete_bits, gbops
from metamix_jax.records.files import write_json
from metamix_jax.records.interruption import StopRequest
from metamix_jax.records.results import TargetResult
from metamix_jax.records.workdir import check_data, check_workdir, hold_workdir
from metamix_jax.training import context as contexts
from metamix_jax.training import phases
from metamix_jax.training.context import TrainingContext
from metamix_jax.training.run_phases import RunPhases
from metamix_jax.training.saved_search import load_full_precision, load_meta_state
from metamix_jax.training.state import MetaState

# Of its folder: an Orbax folder of weights and running statistics, as config.pretraining.weights takes them.
PRETRAINED = pathlib.PurePath("checkpoints", "pretraining")
Fork = Callable[[TrainingContext], TrainingContext]
Start = Callable[[TrainingContext], MetaState]


class SeedRuns:
  """Computes or reads the runs of one seed.

  Attributes:
    claim: the claim's config, of configs/ledger.
    seed: of the orders of the images, of augmentation and of alpha's start.
    seconds: {name: seconds of computing, over all starts} of the runs that were asked for.
  """

  def __init__(self, claim: ml_collections.ConfigDict, seed: int, folder: pathlib.Path, stop_request: StopRequest):
    self.claim, self.seed, self.seconds = claim, seed, {}
    self._folder, self._stop_request = folder.absolute(), stop_request
    self._prepare = functools.cache(lambda fields: contexts.prepare(self._configs[fields]))
    self._configs: dict[str, ml_collections.ConfigDict] = {}

  def config(self, **changes: Any) -> ml_collections.ConfigDict:
    """Returns the config of a run: config.run of the claim, with this seed and the pretrained network.

    Args:
      **changes: further {"section__field": value}.
    """
    config = copy.deepcopy(self.claim.run)
    config.seed = self.seed
    config.pretraining.epochs, config.pretraining.weights = 0, str(self._folder / "pretrained" / PRETRAINED)
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return config

  def context(self, config: ml_collections.ConfigDict) -> TrainingContext:
    """Returns the context of a config; two runs of equal configs share it, and what it has compiled."""
    self._pretrain()
    key = json.dumps(flatten(config), sort_keys=True)
    self._configs.setdefault(key, config)
    return self._prepare(key)

  def folder(self, name: str) -> pathlib.Path:
    """Returns the folder of a run of this seed."""
    return self._folder / f"seed_{self.seed}" / name

  def search(self, name: str, config: ml_collections.ConfigDict, fork: Fork = lambda context: context) -> dict:
    """Searches bits, without weight training; returns the summary of the run.

    Args:
      name: of the folder.
      config: of the run.
      fork: replaces a part of its context.
    """
    config = copy.deepcopy(config)
    config.arch.train_targets = ()
    folder = self.folder(name)
    summary = _finished(folder / "report" / "summary.json", config)
    if summary is None:
      summary = experiment.run(fork(self.context(config)), folder, self._stop_request)
    self.seconds[name] = sum(
        seconds for phase, seconds in summary["seconds"].items() if not phase.startswith("stage"))
    return summary

  def train(
      self, search: str, name: str, bits: Mapping[str, int], config: ml_collections.ConfigDict,
      start: Start | None = None,
  ) -> dict[str, Any]:
    """Trains weights at some bits through both stages, from the meta-state of a finished search.

    Args:
      search: name of the search, whose folder has the meta-state and the full-precision network, the teacher.
      name: of the training's folder.
      bits: of each searched layer.
      config: of the run.
      start: returns another state to start from; None: the meta-state.

    Returns:
      {"bits", "gbops" of one image, "stage_a_top1" and "top1" in percent}.
    """
    folder = self.folder(search) / "trained" / name
    result = _finished(folder / "trained.json", config)
    if result is None:
      result = self._train(folder, search, dict(bits), config, start)
    if result["bits"] != dict(bits):
      raise UserError(f"{folder / 'trained.json'} holds weights of other bits; delete the folder {folder}.")
    self.seconds[f"{search}, {name}"] = result["seconds"]
    return {key: result[key] for key in ("bits", "gbops", "stage_a_top1", "top1")}

  def _train(self, folder, search, bits, config, start):
    context, searched = self.context(config), self.folder(search)
    layers = context.network.layers
    with hold_workdir(folder):
      check_workdir(config, folder)
      check_data(folder, context.data.description)
      run_phases = RunPhases(context, folder, self._stop_request)
      teacher = experiment.create_teacher(context, load_full_precision(context, searched))
      meta = load_meta_state(context, searched) if start is None else start(context)
      target_gbops = config.arch.target_gbops
      target, _ = experiment.train_target(
          context, run_phases, experiment.on_host(meta.without_optimizer()),
          TargetResult(target_gbops, layers, config.arch.target_tolerance, bits, bits), teacher)
      result = {
          "bits": bits, "gbops": gbops(layers, complete_bits(layers, bits)), "stage_a_top1": target.stage_a_top1,
          "top1": target.final_top1, "seconds": sum(run_phases.seconds.values()), "config": flatten(config)}
      write_json(folder / "trained.json", result)
    return result

  def meta_state(
      self, search: str, name: str, config: ml_collections.ConfigDict, start: Start,
      measure: Callable[[TrainingContext, MetaState], dict[str, Any]]
  ) -> tuple[dict[str, Any], MetaState]:
    """Trains a meta-state from a state of one's own, without a search (M10), in a folder as `search` leaves it.

    Args:
      search: name of a finished search, whose full-precision network is the teacher.
      name: of the folder.
      config: of the run.
      start: returns the state to start from.
      measure: (context, meta-state) -> results of the phase, kept in its JSON.

    Returns:
      The results, and the meta-state.
    """
    context, folder = self.context(config), self.folder(name)
    with hold_workdir(folder):
      check_workdir(config, folder)
      check_data(folder, context.data.description)
      run_phases = RunPhases(context, folder, self._stop_request)

      def compute(meta, clock):
        teacher = experiment.create_teacher(context, load_full_precision(context, self.folder(search)))
        meta = phases.train_meta_state(context, meta, teacher, run_phases.saving, clock).without_optimizer()
        return meta, measure(context, meta)

      meta, results = run_phases.run("bit_selection", start(context), compute)
    self.seconds[name] = run_phases.seconds["bit_selection"]
    return results, meta

  def _pretrain(self):
    """Trains the full-precision network that all searches start from, unless it is there."""
    folder, config = self._folder / "pretrained", self.claim.pretrained
    results = folder / PRETRAINED.with_suffix(".json")
    with hold_workdir(folder):
      check_workdir(config, folder)
      if not results.exists():
        context = contexts.prepare(config)
        run_phases = RunPhases(context, folder, self._stop_request)

        def compute(meta, clock):
          meta, best = phases.pretrain(context, meta, run_phases.saving, clock)
          return meta, {"best": best}

        run_phases.run("pretraining", phases.create_student(context), compute)
    self.seconds["pretrained"] = json.loads(results.read_text(encoding="utf-8"))["seconds"]


def _finished(path, config):
  """Returns the results in a JSON file if they are of this config, else None."""
  if not path.exists():
    return None
  results = json.loads(path.read_text(encoding="utf-8"))
  return results if results["config"] == json.loads(json.dumps(flatten(config))) else None
