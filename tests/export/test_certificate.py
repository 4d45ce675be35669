"""A right export is certified; an export with one thing wrong is not, and the sentence names the promise."""

import dataclasses

import numpy as np
import pytest

from metamix_jax.export import certificate, evaluator, folding, run, stablehlo
from tests.helpers.exported_networks import digits_network, noise, random_network

SHAPE = (9, 9, 3)
# h-swish everywhere, a 5x5 depthwise convolution with stride 2, squeeze-and-excitation.
OPTIONS = dict(blocks=((5, 24, 8, True, "hard_swish", 2),), stem_channels=8, stem_stride=1, last_channels=16)


@pytest.fixture(scope="module")
def network():
  return random_network("mobilenet_v3_small", OPTIONS, SHAPE)


@pytest.fixture(scope="module")
def program(network):
  return folding.make_program(network.network, network.variables, network.bits, network.image_shape)


@pytest.fixture(scope="module")
def images():
  return noise(np.random.default_rng(5), 40, SHAPE)


def certify(program, network, images, runs=None, **kwargs):
  batches = ((batch, np.arange(len(batch)) % 10) for batch in np.split(images, 2))
  return certificate.certify(program, network.network, network.variables, network.bits, batches, runs or {}, **kwargs)


def with_array(program, name, values):
  return dataclasses.replace(program, arrays=dict(program.arrays) | {name: values})


def test_a_right_export_is_certified(program, network, images):
  _, runs = run.make_files(program, ("program", "stablehlo", "integer"))
  proof = certify(program, network, images, runs, num_exact=30)
  assert proof["g1"]["images"] == 30
  assert proof["g1"]["compared"] == [
      "NumPy evaluator", "program, JAX on CPU", "stablehlo.bin, JAX on CPU", "integer.onnx, ONNX Runtime on CPU"]
  # Codes of one image: 9*9 pixels of 3; h-swish of the stem, 9*9*8, expanded 24, at stride 2 5*5*24; and so on.
  layers = proof["g2"]["layers"]
  assert [layers[name]["codes"] for name in ("stem", "block_00/expand", "block_00/depthwise", "block_00/project")] == [
      40 * 243, 40 * 648, 40 * 1944, 40 * 600]
  assert list(layers) == [layer.name for layer in network.network.layers]
  assert proof["g2"]["codes"] == 40 * sum(layer.input_elements for layer in network.network.layers)
  assert proof["g1"]["codes"] == 30 * sum(layer.input_elements for layer in network.network.layers)
  assert proof["g2"]["largest_distance_in_steps"] <= 2**-12
  assert proof["g3"]["equal_predictions"] == proof["g3"]["images"] == 40


def test_without_files_the_evaluator_is_compared_with_the_program_that_is_measured(program, network, images):
  proof = certify(program, network, images)
  assert proof["g1"]["compared"] == ["NumPy evaluator", "program, JAX on CPU"]
  assert (proof["g1"]["images"], proof["g1"]["codes"]) == (40, proof["g2"]["codes"])


@pytest.mark.parametrize("what, words", [
    ("codes", "1 of 4860 codes at the input of layer stem"), ("logits", "1 of 200 logits")])
def test_a_measured_program_that_is_not_the_evaluators_is_found(what, words, program, network, images, monkeypatch):
  """One code or logit of the last image of a batch of 20, in the program that G2 and G3 are measured on."""
  interpret = stablehlo.interpret

  def wrong(*arguments):
    logits, codes, steps = interpret(*arguments)
    if what == "codes":
      codes["stem"] = codes["stem"].at[-1, 0, 0, 0].add(1)
    else:
      logits = logits.at[-1, 0].add(1)
    return logits, codes, steps

  monkeypatch.setattr(stablehlo, "interpret", wrong)
  proof = certificate.measure(
      program, network.network, network.variables, network.bits, [(images[:20], np.zeros(20))], {}, num_exact=19)
  assert (proof["g1"]["images"], proof["g1"]["different_codes"]) == (19, 0)
  with pytest.raises(certificate.NotCertified, match=f"G1 does not hold: program, JAX on CPU has {words}"):
    certify(program, network, images)


def test_one_wrong_weight_code_is_found(program, network, images):
  kernel = program.arrays["block_00/project/kernel"].copy()
  kernel[0, 0, 3, 3] += 1 if kernel[0, 0, 3, 3] < 7 else -1
  with pytest.raises(certificate.NotCertified, match="G2 does not hold: at the input of layer head, x / s differs"):
    certify(with_array(program, "block_00/project/kernel", kernel), network, images)


def test_a_bias_on_the_grid_of_the_sums_is_found(program, network, images):
  offset = np.rint(program.arrays["block_00/expand/offset"])
  with pytest.raises(certificate.NotCertified, match="G2 does not hold: at the input of layer block_00/depthwise"):
    certify(with_array(program, "block_00/expand/offset", offset), network, images)


def test_padding_that_counts_as_a_code_is_found(program, network, images):
  """Without the correction of the border, zero padding would mean -3/8."""
  offset = program.arrays["block_00/depthwise/offset"]
  node = next(node for node in program.quantized if node["layer"] == "block_00/depthwise")
  inner = offset[node["rows"][2], node["columns"][2]]
  assert offset.shape == (3, 3, 24)
  with pytest.raises(certificate.NotCertified, match="G2 does not hold: at the input of layer block_00/squeeze_excite"):
    certify(with_array(program, "block_00/depthwise/offset", np.broadcast_to(inner, offset.shape)), network, images)


@pytest.mark.parametrize("what, words", [
    ("codes", "1 of 9720 codes at the input of layer stem"), ("logits", "1 of 400")])
def test_a_file_that_differs_in_one_number_is_found(what, words, program, images):
  def wrong(images):
    result = evaluator.evaluate(program, images)
    logits, codes = result.logits.copy(), {name: values.copy() for name, values in result.codes.items()}
    if what == "codes":
      codes["stem"][0, 0, 0, 0] += 1
    else:
      logits[0, 0] = np.nextafter(logits[0, 0], np.float32(9))
    return logits, codes

  with pytest.raises(certificate.NotCertified, match=f"G1 does not hold: wrong.bin has {words}"):
    certificate.compare_exactly(program, images, {"wrong.bin": wrong})


def test_each_promise_about_codes_can_be_broken():
  steps = np.full(20_000, 2.25, np.float32)
  codes = np.full(20_000, 2, np.int16)
  near = steps.copy()
  near[:3] = 2.5
  for made, made_steps, expected_steps, words in [
      (codes, steps, steps, None),
      (codes, steps + np.float32(2**-11), steps, "x / s differs by 0.000488 steps"),
      (np.where(np.arange(20_000) == 0, 4, codes), near, near, "a code differs by 2"),
      (np.where(np.arange(20_000) == 3, 3, codes), near, near, "away from a tie"),
      (np.where(np.arange(20_000) < 2, 3, codes), near, near, None),
      (np.where(np.arange(20_000) < 3, 3, codes), near, near, "3 of 20000 codes differ"),
      (codes, steps * np.float32(np.nan), steps, "x / s differs by nan"),
  ]:
    comparison = certificate.LayerComparison()
    comparison.add(made, made_steps, codes, expected_steps)
    broken = comparison.broken_promise()
    assert broken is None if words is None else words in broken


def test_weights_at_a_tie_have_the_codes_that_they_have_in_the_run():
  """XLA makes a product with the reciprocal of a division of constants, and then such a weight has another code."""
  network = digits_network(bits=8)
  moved = 0
  for layer in network.network.layers:
    params, step_sizes = network.variables["params"], network.variables["step_sizes"]
    for part in layer.name.split("/"):
      params, step_sizes = params[part], step_sizes[part]
    kernel = params["kernel"] = np.array(params["kernel"])
    for channel, s in enumerate(step_sizes["weight"]):
      halves = np.arange(1, 2 ** (layer.weight_bits - 1) - 2, dtype=np.float32) + np.float32(0.5)
      weights = halves * s
      ties = weights[(weights / s == halves) & (np.rint(weights * (1 / s)) != np.rint(weights / s))]
      if len(ties):
        kernel[..., channel].flat[0] = ties[0]
        moved += 1
  assert moved > 10
  made = folding.make_program(network.network, network.variables, network.bits, network.image_shape)
  images = noise(np.random.default_rng(1), 8, network.image_shape)
  proof = certificate.measure(
      made, network.network, network.variables, network.bits, [(images, np.zeros(8))], {}, num_exact=0)
  assert proof["g2"]["largest_distance_in_steps"] <= certificate.LARGEST_DISTANCE
