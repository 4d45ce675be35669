"""The contents of summary.json and network.json."""

import dataclasses
import importlib.metadata
import json
import platform
import sys

import pytest

from metamix_jax.config_file import flatten
from metamix_jax.method.costs import with_activation_bytes
from metamix_jax.nn.scheme import LSQ
from metamix_jax.records import results, summary
from metamix_jax.training.context import networks_without_data
from tests.helpers.configs import tiny_config


@pytest.fixture(scope="module")
def run():
  """A config, the layers of its network, and a selection of their lowest bits."""
  config = tiny_config("data")
  layers = networks_without_data(config)[0].layers
  bits = {layer.name: 3 for layer in layers if layer.searched}
  target = results.TargetResult(0.0008, layers, 0.03, bits, bits, 90.0, 91.5, 92.25)
  return config, layers, results.BitSelection((target,))


def test_summary(run):
  config, layers, selection = run
  uniform = (results.UniformResult(8, layers, 95.0, 60.0),)
  best = {"stage_a": {"step": 4, "top1": 91.0}, "stage_b": None}
  content = summary.summarize(config, 97.5, selection, uniform, {"pretraining": 2.5}, 3, best, {"stage_b": "0a"})
  assert json.loads(json.dumps(content)) == content | {"config": json.loads(json.dumps(flatten(config)))}
  assert list(content) == ["full_precision_top1", "targets", "uniform", "cost_name", "cost_unit", "best",
                           "fingerprints", "skipped_records", "seconds", "seed", "config", "versions"]
  assert (content["cost_name"], content["cost_unit"]) == ("BOPs", "GBOPs")
  target, = content["targets"]
  assert (target["target_gbops"], target["meta_state_top1"], target["final_top1"]) == (0.0008, 90.0, 92.25)
  assert target["gbops"] == pytest.approx(selection.targets[0].gbops) and set(target["bits"].values()) == {3}
  assert content["uniform"][0]["shared_top1"] == 60.0 and content["best"] == {"stage_a": {"step": 4, "top1": 91.0}}
  assert (content["full_precision_top1"], content["skipped_records"], content["seed"]) == (97.5, 3, config.seed)
  assert content["seconds"] == {"pretraining": 2.5} and content["fingerprints"] == {"stage_b": "0a"}
  assert content["versions"]["python"] == platform.python_version()
  assert content["versions"]["jax"] == importlib.metadata.version("jax")


def test_network_facts(run):
  config, layers, _ = run
  content = json.loads(json.dumps(summary.describe_network(config, layers, LSQ)))
  assert (content["network"], content["image_size"]) == ("mobilenet_v2", 8)
  assert content["quantizer"] == [
      "metamix_jax.method.quantizers.fake_quantize", "metamix_jax.method.bit_mixture.mix_bit_widths"]
  assert len(content["layers"]) == len(layers) == 8
  for entry, layer in zip(content["layers"], layers, strict=True):
    left_out = {"cost": None, "candidate_weight_bits": []}  # Only where it is not BOPs, and kernels are searched.
    assert entry | left_out == json.loads(json.dumps(dataclasses.asdict(layer))) | {"searched": layer.searched}
    assert not left_out.keys() & entry.keys()
  searched = dataclasses.replace(layers[1], candidate_weight_bits=(2, 4))
  assert summary.describe_network(config, [searched], LSQ)["layers"][0]["candidate_weight_bits"] == (2, 4)
  with_bytes = summary.describe_network(config, with_activation_bytes(layers), LSQ)["layers"]
  assert with_bytes[0]["cost"] == {"name": "activation bytes", "unit": "bytes", "values": (64.0,)}


def test_versions_of_packages_that_pip_did_not_install(monkeypatch):
  def nothing(package):
    raise importlib.metadata.PackageNotFoundError(package)

  monkeypatch.setattr(importlib.metadata, "version", nothing)
  assert summary.version_of("metamix_jax") == sys.modules["metamix_jax"].__version__
  assert summary.version_of("orbax-checkpoint") == "unknown"
  monkeypatch.setattr(importlib.metadata, "version", lambda package: None)  # Metadata without a version.
  assert summary.version_of("jax") == "unknown"
