"""The NumPy evaluator: its file format, its operations against hand-made numbers, and that it needs NumPy alone."""

import subprocess
import sys

import numpy as np
import pytest

from metamix_jax.export import evaluator, folding, program
from tests.helpers.exported_networks import noise, random_network

# As a user without this package runs it: what JAX or the package would import is refused.
WITHOUT_US = """
import importlib.abc, runpy, sys
class Refuse(importlib.abc.MetaPathFinder):
  def find_spec(self, name, path=None, target=None):
    if name.partition(".")[0] in ("jax", "flax", "metamix_jax", "onnx"):
      raise ImportError(f"{name} is refused")
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("bits", range(2, 9))
def test_packed_codes_come_back_and_take_their_bits(bits):
  limit = 2 ** (bits - 1) - 1
  codes = np.random.default_rng(bits).integers(-limit, limit + 1, (3, 3, 5, 7)).astype(np.int8)
  packed = evaluator.pack(codes, bits)
  assert packed.nbytes == -(-codes.size * bits // 8)
  np.testing.assert_array_equal(evaluator.unpack(packed, bits, codes.shape), codes)


def test_the_first_code_is_in_the_lowest_bits():
  assert evaluator.pack(np.array([1, -2, 7]), 4).tolist() == [0xE1, 0x07]


def test_codes_round_half_to_even_and_stay_in_their_range():
  node = {"shift": 0.0, "step_size": 0.5, "lowest": -3, "highest": 3}
  codes, steps = evaluator.quantize(node, {}, np.array([0.25, 0.75, 1.25, -0.25, -9, 9], np.float32))
  assert codes.tolist() == [0, 2, 2, 0, -3, 3]
  assert steps.tolist() == [0.5, 1.5, 2.5, -0.5, -3, 3]
  codes, _ = evaluator.quantize(node | {"shift": 0.375}, {}, np.array([0.0, -0.375], np.float32))
  assert codes.tolist() == [1, 0]


@pytest.mark.parametrize("groups, depth, features", [(1, 4, 6), (4, 1, 4), (4, 1, 8), (2, 2, 6)])
def test_convolutions_are_sums_over_taps(groups, depth, features):
  """Against a loop over every output."""
  rng = np.random.default_rng(0)
  codes = rng.integers(-7, 8, (2, 5, 6, 4))
  kernel = rng.integers(-7, 8, (3, 2, depth, features)).astype(np.int8)
  node = {"op": "conv", "kernel": "k", "offset": "o", "divisor": "d", "groups": groups, "strides": [2, 1],
          "padding": [[1, 2], [0, 1]], "dilation": [1, 2], "shape": [3, 5, features], "largest_sum": 10_000}
  arrays = {"k": kernel, "o": np.arange(features, dtype=np.float32), "d": np.full(features, 2, np.float32)}
  padded = np.pad(codes, ((0, 0), (1, 2), (0, 1), (0, 0)))
  expected = np.zeros((2, 3, 5, features))
  for image, row, column, feature in np.ndindex(expected.shape):
    first = feature // (features // groups) * depth
    window = padded[image, 2 * row:2 * row + 3, column:column + 3:2, first:first + depth]
    expected[image, row, column, feature] = (np.sum(window * kernel[..., feature]) + feature) / 2
  for largest_sum in (10_000, 2**26):
    y = evaluator.conv(node | {"largest_sum": largest_sum}, arrays, codes.astype(np.int16))
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, expected)


def test_sums_beyond_float32_are_exact():
  codes, kernel = np.full((1, 70_001), 255, np.int16), np.full((70_001, 1), 127, np.int8)
  node = {"kernel": "k", "offset": "o", "divisor": "d", "largest_sum": 255 * 127 * 70_001}
  arrays = {"k": kernel, "o": np.zeros(1, np.float32), "d": np.ones(1, np.float32)}
  assert evaluator.dense(node, arrays, codes)[0, 0] == np.float32(255 * 127 * 70_001)


def test_a_sum_has_one_order():
  """49 values: zeros up to 64, then 32 + 32, 16 + 16 and so on, each rounded to float32."""
  x = np.random.default_rng(0).normal(0, 1, (2, 7, 7, 3)).astype(np.float32)
  values = np.zeros((2, 3, 64), np.float32)
  values[..., :49] = x.transpose(0, 3, 1, 2).reshape(2, 3, 49)
  while values.shape[-1] > 1:
    values = np.add(*np.split(values, 2, axis=-1), dtype=np.float32)
  np.testing.assert_array_equal(evaluator.tree_sum({"axes": [1, 2]}, {}, x), values[..., 0])


def test_a_pool_ignores_what_lies_outside():
  x = -np.arange(1, 17, dtype=np.float32).reshape(1, 4, 4, 1)
  node = {"window": [3, 3], "strides": [2, 2], "padding": [[1, 1], [1, 1]], "shape": [2, 2, 1]}
  assert evaluator.max_pool(node, {}, x)[0, ..., 0].tolist() == [[-1, -2], [-5, -6]]


def test_other_images_are_refused():
  made = evaluator.Program((4, 4, 1), [], {})
  for images in (np.zeros((1, 4, 4, 1), np.float32), np.zeros((1, 4, 5, 1), np.uint8)):
    with pytest.raises(ValueError, match="allowed are uint8"):
      evaluator.evaluate(made, images)


def test_an_exported_program_runs_without_jax_and_without_us(tmp_path):
  network = random_network("tests.helpers.own_network:PlainNetwork", {"features": (4, 8)}, (8, 8, 1))
  made = folding.make_program(network.network, network.variables, network.bits, network.image_shape)
  images = noise(np.random.default_rng(0), 3, made.image_shape)
  program.write(tmp_path, made, {})
  program.write_golden(tmp_path, made, images)
  read = evaluator.load(tmp_path)
  assert [dict(node) for node in read.nodes] == [dict(node) for node in made.nodes]
  assert sorted(read.arrays) == sorted(made.arrays)
  for name, array in made.arrays.items():
    assert (read.arrays[name].dtype, read.arrays[name].tobytes()) == (array.dtype, array.tobytes())

  def check():
    return subprocess.run([sys.executable, "-c", WITHOUT_US, str(tmp_path / "evaluator.py")], capture_output=True,
                          text=True, cwd=tmp_path)
  result = check()
  assert result.returncode == 0, result.stderr
  # Codes: 8*8 pixels, 8*8*4, 4*4*4, 8 means; of three images.
  assert 3 * (64 + 256 + 64 + 8) == 1176
  assert result.stdout == "3 golden images: 1,176 codes and 30 logits are equal bit for bit.\n"
  with np.load(tmp_path / "golden.npz") as file:
    golden = {name: file[name] for name in file.files}
  golden["codes/conv_0"][0, 0, 0, 0] += 1
  np.savez(tmp_path / "golden.npz", **golden)
  assert "the codes of conv_0 are others" in check().stderr


def test_a_file_of_another_version_is_refused(tmp_path):
  (tmp_path / "program.json").write_text('{"format": "metamix_jax integer program", "version": 2}')
  with pytest.raises(ValueError, match="version 1"):
    evaluator.load(tmp_path)
