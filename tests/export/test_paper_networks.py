"""The paper's networks, trained for a minute: exact files, and the sizes that packed weights promise."""

import numpy as np
import pytest

from metamix_jax.export import certificate, evaluator, folding, onnx_files, program, run
from tests.helpers.exported_networks import unmeasured_network
from tests.helpers.fitted_networks import fitted_network, striped_images


@pytest.mark.slow
@pytest.mark.parametrize("name, bits", [
    ("mobilenet_v3_large", None), ("mobilenet_v3_large", 8), ("resnet18", None), ("resnet18", 8), ("mobilenet_v2", 8)])
def test_the_papers_networks_are_certified(name, bits):
  """At 64 pixels or 224: global averages over 4 and 49 positions, borders of h-swish, scales of 0 and below.

  Each is trained for a minute, so that its predictions are decisions, see fitted_networks.py.
  """
  size, count = (224, 32) if name == "mobilenet_v2" else (64, 128)
  shape, rng = (size, size, 3), np.random.default_rng(3)
  steps, batch_size = (80, 40) if name == "mobilenet_v3_large" else (40, 20)
  network = fitted_network(name, shape, rng, steps, batch_size, bits=bits)
  made = folding.make_program(network.network, network.variables, network.bits, shape)
  _, runs = run.make_files(made, ("program", "stablehlo", "integer"))
  images, kinds = striped_images(rng, count, shape)
  batches = zip(np.split(images, count // 16), np.split(kinds, count // 16), strict=True)
  proof = certificate.certify(made, network.network, network.variables, network.bits, batches, runs, num_exact=4)
  assert proof["g1"]["codes"] == 4 * sum(layer.input_elements for layer in network.network.layers)
  assert proof["g2"]["codes"] == count * sum(layer.input_elements for layer in network.network.layers)
  assert proof["g3"]["equal_predictions"] == count
  assert proof["g3"]["fake_quantized_top1"] >= 90  # Of 1000 classes it takes the right one of ten.


@pytest.mark.slow
def test_packed_weights_keep_mobilenet_v2_small(tmp_path):
  """MB are 10^6 bytes; the classifier and the first layer have 8 bits."""
  network = unmeasured_network("mobilenet_v2", (32, 32, 3), bits=4, num_classes=1000)
  made = folding.make_program(network.network, network.variables, network.bits, (32, 32, 3))
  assert onnx_files.make_model(made, "integer").ByteSize() <= 2.6e6
  assert onnx_files.make_model(made, "qcdq").ByteSize() <= 2.8e6
  program.write(tmp_path, made, {})
  assert (tmp_path / "program.npz").stat().st_size <= 2.55e6
  packed = sum(-(-made.arrays[node["kernel"]].size * node["weight_bits"] // 8) for node in made.quantized)
  assert 2.3e6 < packed < 2.4e6
  assert sum(values.size for values in evaluator.load(tmp_path).arrays.values()) == sum(
      values.size for values in made.arrays.values())
