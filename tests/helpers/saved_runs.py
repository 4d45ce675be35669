"""Folders as runs leave them, made up in a second: a real network's layers, invented numbers."""

import dataclasses
import json
import math

import numpy as np

from metamix_jax.config_file import flatten
from metamix_jax.method import selection
from metamix_jax.method.bops import attainable_range
from metamix_jax.training import context
from tests.helpers.configs import digits_config, imagenet_config

ALL_PHASES = ("pretraining", "bit_selection", "meta_evaluation", "stage_a", "stage_b")


def large_config(targets=(3.1, 3.31, 4.5)):
  """MobileNetV3-Large, 62 searched layers, on ImageNet, several targets."""
  config = imagenet_config("mobilenet_v3_large")
  with config.ignore_type():
    config.arch.target_gbops = targets
  return config, 1000, 3


def small_config():
  """The digits network, 15 searched layers, one target."""
  return digits_config(), 10, 1


def write_run(folder, config, num_classes, channels, phases=ALL_PHASES, begun=None, records_per_epoch=8):
  """Writes the files of a run.

  Args:
    folder: DIR.
    config: a config.
    num_classes: of the network.
    channels: of the images.
    phases: the finished ones; with all of them the run is finished.
    begun: a training phase of which three quarters are done.
    records_per_epoch: in metrics.jsonl.

  Returns:
    (layers, bits of the searched layers for each target in the order of the targets).
  """
  rng = np.random.default_rng(0)
  targets = config.arch.target_gbops if isinstance(config.arch.target_gbops, tuple) else (config.arch.target_gbops,)
  network, _ = context.build_networks(config, num_classes, channels)
  layers = network.layers
  searched = [layer for layer in layers if layer.searched]
  for name in ("checkpoints", "report"):
    (folder / name).mkdir(parents=True, exist_ok=True)

  def write(name, content):
    (folder / name).write_text(json.dumps(content, indent=2) + "\n")

  write("config.json", flatten(config))
  write("network.json", {
      "network": config.network.name, "image_size": config.data.image_size,
      "layers": [dataclasses.asdict(layer) | {"searched": layer.searched} for layer in layers]})

  alpha = [{layer.name: rng.normal(0, 1, len(layer.candidate_bits)) for layer in searched} for _ in targets]
  selected = [
      selection.select_within_target(layers, values, target, config.arch.target_tolerance)
      for values, target in zip(alpha, targets, strict=True)]
  argmax = [selection.most_probable_bits(layers, values) for values in alpha]

  def search_scalars(progress):
    scalars = {}
    for target, values, chosen in zip(targets, alpha, selected, strict=True):
      prefix, entropies = f"search/{target:g}", []
      for layer in searched:
        direction = np.eye(len(values[layer.name]))[layer.candidate_of(chosen[layer.name])]
        weights = np.exp(progress * (2 * values[layer.name] + 2 * direction))
        pi = weights / weights.sum()
        entropies.append(-np.sum(pi * np.log(pi)))
        scalars |= {
            f"{prefix}/probability/{layer.name}/{bits}": float(p)
            for bits, p in zip(layer.candidate_bits, pi, strict=True)}
      _, highest = attainable_range(layers)
      scalars |= {
          f"{prefix}/loss": 1.5 + 0.5 * math.exp(-3 * progress) + 0.02 * rng.normal(),
          f"{prefix}/gbops": target + (0.6 * highest - target) * math.exp(-4 * progress) + 0.02 * target * rng.normal(),
          f"{prefix}/alpha_entropy": float(np.mean(entropies))}
    return scalars

  def training_records(phase, section, share):
    epochs = config[section].epochs
    for number in range(1, int(share * epochs * records_per_epoch) + 1):
      epoch, step = number / records_per_epoch, number * 10
      yield {
          "phase": phase, "step": step, "epoch": epoch, "wall_seconds": 2.0 * number,
          "loss": 1 + 5 * math.exp(-6 * epoch / epochs) + 0.05 * rng.normal(), "learning_rate": 1e-4,
          "images_per_second": 1000.0} | (
              {f"loss/{bits}": 1 + (5 + 8 / bits) * math.exp(-6 * epoch / epochs) + 0.05 * rng.normal()
               for bits in config.quantization.candidate_bits} if section == "bit_selection" else {}) | (
                   search_scalars(epoch / epochs)
                   if section == "bit_selection" and epoch > config.bit_selection.meta_only_epochs else {})
      if section != "bit_selection" and epoch % max(1, epochs // 10) == 0:
        yield {"phase": phase, "step": step, "epoch": epoch,
               "top1": 75 - 20 * math.exp(-5 * epoch / epochs) + 0.2 * rng.normal()}

  results = {
      "pretraining": {"full_precision_top1": 75.2},
      "bit_selection": {
          "targets": [
              {"target_gbops": target, "bits": chosen, "most_probable_bits": probable,
               "alpha": {name: list(of_layer) for name, of_layer in values.items()}}
              for target, chosen, probable, values in zip(targets, selected, argmax, alpha, strict=True)],
          "activation_stability": {
              when: {f"{layer.name}_norm": float(scale * np.exp(0.5 * rng.normal())) for layer in layers[:-1]}
              for when, scale in (("before", 0.6), ("after", 0.08))}},
      "meta_evaluation": {
          "uniform": [
              {"bits": bits, "top1": 74.5 - 40 / bits**1.5, "shared_top1": 60.0}
              for bits in config.quantization.candidate_bits],
          "targets": {f"{target:g}": 71 + 0.7 * number for number, target in enumerate(targets)}}}
  sections, lines = {}, []
  for phase in ALL_PHASES:
    several = phase.startswith("stage") and len(targets) > 1
    for number, target in enumerate(targets if several else targets[:1]):
      sections[f"{phase}_{target:g}" if several else phase] = phase
      if phase == "stage_a":
        results[f"{phase}_{target:g}" if several else phase] = {"stage_a_top1": 73 + 0.6 * number}
      if phase == "stage_b":
        results[f"{phase}_{target:g}" if several else phase] = {"final_top1": 72.5 + 0.8 * number}
  for phase, section in sections.items():
    share = 1.0 if section in phases else 0.75 if phase == begun else 0.0
    if share and section != "meta_evaluation":
      lines += training_records(phase, section, share)
    if section in phases:
      write(f"checkpoints/{phase}.json", results[phase] | {"seconds": 120.0, "best": None})
  (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
  if set(phases) == set(ALL_PHASES):
    write("report/summary.json", {
        "full_precision_top1": 75.2, "skipped_records": 0, "seconds": dict.fromkeys(sections, 120.0),
        "versions": {"python": "3.11", "jax": "0.10.2"}})
  return layers, selected
