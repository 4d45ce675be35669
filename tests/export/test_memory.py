"""Peak memory of activations, against graphs worked out by hand."""

from metamix_jax.export import lowering, memory, tracing
from metamix_jax.export.evaluator import Program
from metamix_jax.models import create_network
from metamix_jax.nn.scheme import QuantizationScheme


def node(name, op, inputs, shape, **fields):
  return {"name": name, "op": op, "inputs": inputs, "shape": shape} | fields


def program(nodes):
  return Program((4, 4, 3), nodes, {})


def test_a_chain_keeps_the_input_and_the_output_of_a_pass():
  """Convolution, ReLU6 and quantiser are one pass, so that the float32 values between them are never stored.

  Bytes: image 48; stem codes 4*4*3 at 8 bits = 48; codes 4*4*8 at 3 bits = 48, a byte each = 128; logits 4*10 = 40.
  Pairs: 48 + 48, 48 + 48 (or 48 + 128), 48 + 40 (or 128 + 40).
  """
  chain = program([
      node("stem/codes", "lookup", ["image"], [4, 4, 3], bits=8),
      node("stem/output", "conv", ["stem/codes"], [4, 4, 8]),
      node("zero", "constant", [], []),
      node("relu", "max", ["stem/output", "zero"], [4, 4, 8]),
      node("head/codes", "quantize", ["relu"], [4, 4, 8], bits=3),
      node("head/output", "dense", ["head/codes"], [10])])
  # In float32: image 48 + 192; 192 + 512; 512 + 40.
  assert memory.peaks(chain) == {"packed_bytes": 96, "byte_codes_bytes": 176, "float32_bytes": 704}


def test_a_residual_stream_stays_while_its_branch_is_computed():
  """The stem's ReLU is read by a quantiser and by the sum, so its 4*4*8 float32 values, 512 bytes, are stored.

  The branch's convolution and the sum are one pass, whose result two readers store: 512 more beside the stream, and the
  codes at 4 bits, 64: 512 + 64 + 512 = 1088. A byte for each code: 512 + 128 + 512 = 1152. As float32: 3 * 512.
  """
  block = program([
      node("stem/codes", "lookup", ["image"], [4, 4, 3], bits=8),
      node("stem/output", "conv", ["stem/codes"], [4, 4, 8]),
      node("zero", "constant", [], []),
      node("stream", "max", ["stem/output", "zero"], [4, 4, 8]),
      node("branch/codes", "quantize", ["stream"], [4, 4, 8], bits=4),
      node("branch/output", "conv", ["branch/codes"], [4, 4, 8]),
      node("sum", "add", ["stream", "branch/output"], [4, 4, 8]),
      node("mean", "sum", ["sum"], [8], axes=[1, 2]),
      node("head/codes", "quantize", ["mean"], [8], bits=8),
      node("head/output", "dense", ["head/codes"], [10])])
  assert memory.peaks(block) == {"packed_bytes": 1088, "byte_codes_bytes": 1152, "float32_bytes": 1536}


def test_an_activation_of_several_operations_and_a_gate():
  """h-swish reads the convolution's result twice in one pass; the gate's mean reads it in another, so it is stored.

  512 for h-swish, 8 * 4 = 32 for the mean, then the product at 4 bits, 64, beside both: 512 + 32 + 64 = 608. When
  h-swish is made, 48 of codes are there: 560.
  """
  gated = program([
      node("stem/codes", "lookup", ["image"], [4, 4, 3], bits=8),
      node("stem/output", "conv", ["stem/codes"], [4, 4, 8]),
      node("three", "constant", [], []),
      node("shifted", "add", ["stem/output", "three"], [4, 4, 8]),
      node("swish", "mul", ["stem/output", "shifted"], [4, 4, 8]),
      node("gate", "sum", ["swish"], [1, 1, 8], axes=[1, 2]),
      node("product", "mul", ["swish", "gate"], [4, 4, 8]),
      node("head/codes", "quantize", ["product"], [4, 4, 8], bits=4),
      node("head/output", "dense", ["head/codes"], [10])])
  assert memory.peak_bytes(gated, lambda node: node["bits"]) == 608


def test_a_reshape_takes_nothing_and_bits_round_up_to_bytes():
  """7 codes at 3 bits are 21 bits, 3 bytes; both sides of a reshape are the same bytes."""
  flat = Program((1, 7, 1), [
      node("stem/codes", "lookup", ["image"], [1, 7, 1], bits=3),
      node("flat", "reshape", ["stem/codes"], [7]),
      node("head/output", "dense", ["flat"], [2])], {})
  # Image 7 + 3, then 3 + 8.
  assert memory.peak_bytes(flat, lambda node: node["bits"]) == 11


def test_a_network_of_the_package():
  """MobileNetV2, 8 by 8 pixels, two blocks with shortcuts, all searched layers at 4 bits.

  Block 0 makes its sum: the stem's ReLU6 and the sum are 8*8*8 float32 values each, 2048 bytes; the codes that its last
  layer reads are 8*8*8 at 4 bits, 256. In block 1 the stream stays while the depthwise layer reads 8*8*16 codes and the
  last one's are made: 512 each at 4 bits, 4096 each in float32, which is then the peak. Its own sum has one reader.
  """
  module = create_network("mobilenet_v2", 10, QuantizationScheme((2, 4), 4, 8), dict(
      stem_stride=1, stem_channels=8, blocks=((1, 8, 1, 1), (2, 8, 1, 1)), last_channels=16))
  lowered = lowering.Lowering(tracing.trace_marked(module, {}, (8, 8, 1)))
  made = Program((8, 8, 1), [operation | {"bits": 4} for operation in lowered.nodes], {})
  assert memory.peaks(made) == {
      "packed_bytes": 2048 + 256 + 2048, "byte_codes_bytes": 2048 + 512 + 2048, "float32_bytes": 2048 + 2 * 4096}
