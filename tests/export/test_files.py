"""G1 on every file: StableHLO and ONNX equal the NumPy evaluator bit for bit; qcdq and qonnx nearly."""

import collections

import numpy as np
import onnx
import pytest
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.infer_shapes import InferShapes
from qonnx.util.inference_cost import inference_cost

from metamix_jax.export import certificate, evaluator, folding, onnx_files, onnx_layers, stablehlo
from metamix_jax.method.bops import gbops
from tests.helpers.exported_networks import digits_network, noise, random_network
from tests.helpers.glue_networks import GLUE, SHAPE, glue_network


def program_of(network):
  return folding.make_program(network.network, network.variables, network.bits, network.image_shape)


@pytest.fixture(scope="module")
def network():
  """Of the quick start's shape, with 8 bits everywhere: the hardest case for rounding."""
  return digits_network(bits=8)


@pytest.fixture(scope="module")
def program(network):
  return program_of(network)


@pytest.fixture(scope="module")
def images():
  return noise(np.random.default_rng(1), 150, (16, 16, 1))


@pytest.fixture(scope="module")
def expected(program, images):
  return evaluator.evaluate(program, images)


def assert_equal_bit_for_bit(logits, codes, expected, count):
  assert np.asarray(logits).tobytes() == expected.logits[:count].tobytes()
  assert set(codes) == set(expected.codes)
  for layer, values in expected.codes.items():
    np.testing.assert_array_equal(np.asarray(codes[layer]), values[:count])


def test_the_network_uses_its_codes(expected):
  """The tests of this file compare numbers that differ."""
  for layer, codes in expected.codes.items():
    assert np.unique(codes).size > 30, layer
  assert np.unique(expected.logits.argmax(-1)).size > 1


@pytest.mark.parametrize("threads, optimize", [(1, True), (2, True), (1, False), (2, False)])
def test_integer_onnx_is_exact_on_any_batch(threads, optimize, program, images, expected):
  run = onnx_files.integer_run(program, onnx_files.make_model(program, "integer"), threads, optimize)
  for count in (1, 7, 150):
    assert_equal_bit_for_bit(*run(images[:count]), expected, count)


def test_stablehlo_is_exact_on_any_batch(program, images, expected):
  logits = stablehlo.load(stablehlo.serialize(program))
  with_codes = stablehlo.load(stablehlo.serialize(program, with_codes=True))
  for count in (1, 7, 150):
    assert np.asarray(logits(images[:count])).tobytes() == expected.logits[:count].tobytes()
  assert_equal_bit_for_bit(*with_codes(images), expected, 150)


def test_codes_are_exact_on_any_batch():
  """The codes of every file, and the evaluator's own; the network is small, because JAX compiles it for each batch."""
  program = program_of(glue_network("gate"))
  images = noise(np.random.default_rng(0), 150, SHAPE)
  expected = evaluator.evaluate(program, images)
  runs = [stablehlo.load(stablehlo.serialize(program, with_codes=True))] + [
      onnx_files.integer_run(program, onnx_files.make_model(program, "integer"), threads, optimize)
      for threads in (1, 2) for optimize in (True, False)]
  for count in (1, 7, 150):
    result = evaluator.evaluate(program, images[:count])
    assert_equal_bit_for_bit(result.logits, result.codes, expected, count)
    for run in runs:
      assert_equal_bit_for_bit(*run(images[:count]), expected, count)


def test_the_evaluator_makes_the_same_of_an_image_in_any_batch(program, images, expected):
  for count in (1, 7):
    result = evaluator.evaluate(program, images[:count])
    assert_equal_bit_for_bit(result.logits, result.codes, expected, count)


def test_qcdq_predicts_the_same(program, images, expected):
  model = onnx_files.make_model(program, "qcdq")
  kinds = collections.Counter(node.op_type for node in model.graph.node)
  assert kinds["Conv"] == 16 and kinds["MatMul"] == 1 and kinds["DequantizeLinear"] == 2 * 17
  logits, = onnx_files.session(model).run(None, {"image": images})
  assert np.mean(logits.argmax(-1) == expected.logits.argmax(-1)) >= 0.98
  np.testing.assert_allclose(logits, expected.logits, atol=0.1 * np.abs(expected.logits).max())


def test_qonnx_costs_what_the_run_says_and_predicts_the_same(program, network, images, expected):
  """M8 from outside: QONNX counts bit operations by itself, from the datatypes that it infers."""
  model = onnx_files.make_model(program, "qonnx")
  cost = inference_cost(ModelWrapper(model), discount_sparsity=False)["total_cost"]
  assert cost["total_bops"] == round(1e9 * gbops(network.network.layers, network.bits))
  assert cost["total_macs"] == sum(layer.macs for layer in network.network.layers)
  wrapped = ModelWrapper(model).transform(InferShapes())
  for number in range(2):
    pixels = np.asarray(network.network.normalize(images[number:number + 1])).transpose(0, 3, 1, 2)
    logits = execute_onnx(wrapped, {"image": pixels})["logits"]
    np.testing.assert_allclose(logits[0], expected.logits[number], atol=0.1 * np.abs(expected.logits).max())


@pytest.mark.parametrize("glue", [*GLUE, "perceptron"])
def test_every_operation_between_layers_is_exact_in_onnx(glue):
  """In both orders of axes, and with graph optimisation, which must leave the biases of qcdq alone."""
  program = program_of(glue_network(glue))
  images = noise(np.random.default_rng(0), 5, SHAPE)
  expected = evaluator.evaluate(program, images)
  run = onnx_files.integer_run(program, onnx_files.make_model(program, "integer"))
  assert_equal_bit_for_bit(*run(images), expected, 5)
  logits, = onnx_files.session(onnx_files.make_model(program, "qcdq")).run(None, {"image": images})
  np.testing.assert_allclose(logits, expected.logits, atol=0.1 * np.abs(expected.logits).max())


def test_every_spelling_means_the_same_at_an_hswish_border(monkeypatch):
  """5x5 depthwise with stride 2 on an odd size, squeeze-and-excitation, colour images."""
  options = dict(blocks=((5, 24, 8, True, "hard_swish", 2),), stem_channels=8, stem_stride=1, last_channels=16)
  network = random_network("mobilenet_v3_small", options, (9, 9, 3), bits=8)
  program = program_of(network)
  images = noise(np.random.default_rng(0), 7, (9, 9, 3))
  expected = evaluator.evaluate(program, images)
  run = onnx_files.integer_run(program, onnx_files.make_model(program, "integer"))
  assert_equal_bit_for_bit(*run(images), expected, 7)
  logits, = onnx_files.session(onnx_files.make_model(program, "qcdq")).run(None, {"image": images})
  np.testing.assert_allclose(logits, expected.logits, atol=0.1 * np.abs(expected.logits).max())
  pixels = np.asarray(network.network.normalize(images[:1])).transpose(0, 3, 1, 2)
  wrapped = ModelWrapper(onnx_files.make_model(program, "qonnx")).transform(InferShapes())
  logits = execute_onnx(wrapped, {"image": pixels})["logits"]
  np.testing.assert_allclose(logits[0], expected.logits[0], atol=0.1 * np.abs(expected.logits).max())
  assert_float32_is_unquantised(network, program, images, monkeypatch)


def assert_float32_is_unquantised(network, program, images, monkeypatch):
  """Compares with the evaluator, which does all but round and clip; the weights stay on their grid."""
  def in_steps(node, arrays, x):
    x = (np.asarray(x, np.float32) + np.float32(node["shift"])) / np.float32(node["step_size"])
    return (x, x) if node["op"] == "quantize" else x

  pixels = np.asarray(network.network.normalize(images))
  monkeypatch.setitem(evaluator.OPERATIONS, "quantize", in_steps)
  monkeypatch.setitem(evaluator.OPERATIONS, "lookup", lambda node, arrays, image: in_steps(node, arrays, pixels))
  expected = evaluator.evaluate(program, images).logits
  session = onnx_files.session(onnx_files.make_model(program, "float32"))
  logits, = session.run(["logits"], {"image": pixels.transpose(0, 3, 1, 2)})
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_the_float32_model_is_the_network_without_quantisers(network, program, images, monkeypatch):
  assert_float32_is_unquantised(network, program, images[:3], monkeypatch)


def test_one_wrong_weight_code_in_a_file_is_found(network, images):
  """The last weight of the head, in its half of a byte."""
  program = program_of(network)
  wrong = onnx_files.make_model(program, "integer", with_codes=True)
  kernel, = (array for array in wrong.graph.initializer if array.name == "head/kernel")
  kernel.raw_data = kernel.raw_data[:-1] + bytes([kernel.raw_data[-1] ^ 0x10])
  session = onnx_files.session(wrong)

  def run(images):
    logits, *codes = session.run(None, {"image": images})
    return logits, {node["layer"]: onnx_layers.codes_of_output(node, values)
                    for node, values in zip(program.quantizers, codes, strict=True)}

  with pytest.raises(certificate.NotCertified, match=r"integer.onnx has \d+ of \d+ codes at the input of layer clas"):
    certificate.compare_exactly(program, images[:5], {"integer.onnx": run})


def test_weights_of_four_bits_take_half_a_byte(program):
  model = onnx_files.make_model(program, "integer")
  for initializer in model.graph.initializer:
    if initializer.name.endswith("project/kernel"):
      assert initializer.data_type == onnx.TensorProto.INT4
      assert len(initializer.raw_data) == np.prod(initializer.dims) // 2
    if initializer.name == "stem/kernel":
      # Above 64 in magnitude: unsigned, for CPUs that add pairs of products in 16 bits.
      large = np.abs(program.arrays["stem/kernel"].astype(np.int16)).max() > onnx_layers.LARGEST_SIGNED_WEIGHT
      assert initializer.data_type == (onnx.TensorProto.UINT8 if large else onnx.TensorProto.INT8)
