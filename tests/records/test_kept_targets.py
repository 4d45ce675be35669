"""Kept targets: read back bit for bit, never half a file, never another run's, within their room."""

import json
import logging
import shutil

import numpy as np
import pytest

from metamix_jax.errors import UserError
from metamix_jax.records.kept_targets import KeptTargets, TopTargets, WholeTargets

SHAPE = (3, 4, 5)
RNG = np.random.default_rng(0)
FIRST, SECOND = (RNG.dirichlet(np.ones(5), 4).astype(np.float32) for _ in range(2))


def opened(root, facts=None, process=(0, 1), max_bytes=1e9):
  return KeptTargets(root, facts or {"seed": 0}, SHAPE, process, max_bytes)


def files(root):
  return sorted(path for path in root.rglob("*") if path.is_file() and "/c/" in str(path))


def test_what_was_written_is_read_bit_for_bit_and_nothing_else_is_there(tmp_path):
  kept = opened(tmp_path)
  assert kept.read(7, 2) is None
  kept.write(7, 2, FIRST)
  kept.write(100_000, 0, SECOND)
  kept.flush()
  again = opened(tmp_path)
  assert again.read(7, 2).tobytes() == FIRST.tobytes() and again.read(100_000, 0).tobytes() == SECOND.tobytes()
  assert again.read(7, 1) is None and again.read(8, 2) is None
  assert len(files(tmp_path)) == 2


def test_each_process_has_its_part_and_each_set_of_facts_its_folder(tmp_path):
  first, second = (opened(tmp_path, process=(index, 2)) for index in (0, 1))
  first.write(0, 0, FIRST)
  second.write(0, 0, SECOND)
  first.flush(), second.flush()
  assert first.read(0, 0).tobytes() == FIRST.tobytes() and second.read(0, 0).tobytes() == SECOND.tobytes()
  other = opened(tmp_path, {"seed": 1})
  assert other.read(0, 0) is None and other.folder != first.folder == second.folder
  assert json.loads((other.folder / "facts.json").read_text()) == {"seed": 1}


def test_a_file_that_is_damaged_is_made_again(tmp_path, caplog):
  kept = opened(tmp_path)
  kept.write(0, 1, FIRST)
  kept.flush()
  path, = files(tmp_path)
  whole = path.read_bytes()
  for damaged in (b"", whole[:-1], whole[:40], bytes([whole[0] ^ 1]) + whole[1:]):
    path.write_bytes(damaged)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "metamix_jax"):
      assert opened(tmp_path).read(0, 1) is None
    assert len(caplog.messages) == 1 and "the teacher makes it again" in caplog.messages[0]
  again = opened(tmp_path)
  again.write(0, 1, FIRST)
  again.flush()
  assert opened(tmp_path).read(0, 1).tobytes() == FIRST.tobytes()


def test_nothing_is_written_beyond_the_room_of_all_runs(tmp_path, caplog):
  opened(tmp_path, {"seed": 1}).flush()
  taken = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
  kept = opened(tmp_path, max_bytes=2 * taken + 1.5 * FIRST.nbytes)
  with caplog.at_level(logging.WARNING, "metamix_jax"):
    for number in range(3):
      kept.write(0, number, FIRST)
  kept.flush()
  assert len(files(tmp_path)) == 2 and kept.read(0, 2) is None
  assert len(caplog.messages) == 1 and "from epoch 0, batch 1 on" in caplog.messages[0]
  assert opened(tmp_path, max_bytes=1.0).read(0, 0).tobytes() == FIRST.tobytes()


def test_a_folder_that_cannot_be_used_is_one_sentence(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="^config.teacher.kept_targets: .* cannot be used"):
    opened(tmp_path / "file")
  kept = opened(tmp_path / "root")
  array = kept.folder / "targets.zarr" / "zarr.json"
  array.write_text(array.read_text().replace("float32", "float64"))
  with pytest.raises(UserError, match="^config.teacher.kept_targets: .* cannot be used"):
    opened(tmp_path / "root")


def test_the_highest_classes_share_what_they_have_and_the_others_the_rest():
  code = TopTargets(2)
  targets = np.array([[0.04, 0.5, 0.06, 0.3, 0.1], [0.2, 0.2, 0.2, 0.2, 0.2]], np.float32)
  decoded = code.decode(code.encode(targets), 5)
  of_first, of_second = float(np.float16(0.3)), float(np.float16(0.2))
  rest = ((1 - 0.5 - of_first) / 3, (1 - 2 * of_second) / 3)
  np.testing.assert_allclose(
      decoded, [[rest[0], 0.5, rest[0], of_first, rest[0]], [of_second, of_second, *[rest[1]] * 3]], rtol=1e-6)
  np.testing.assert_allclose(decoded.sum(axis=1), 1, rtol=1e-6)
  # As float16, 2 x 0.50018 are a little more than 1.
  above = code.decode(code.encode(np.array([[0.50018, 0.50018, 0.0]], np.float32)), 3)
  assert above.sum() == 1 and above[0, 2] == 0
  assert TopTargets(9).shape(5) == (2, 4)


def test_kept_classes_take_their_bytes_and_are_read_as_they_were_rounded(tmp_path):
  shape, targets = (3, 64, 1000), RNG.dirichlet(np.full(1000, 0.01), 64).astype(np.float32)
  whole, top = (KeptTargets(tmp_path, {"code": code.facts}, shape, (0, 1), 1e9, code)
                for code in (WholeTargets(), TopTargets(10)))
  assert top.read(0, 0) is None
  for kept in (whole, top):
    kept.write(0, 0, targets)
    kept.flush()
  assert top.read(0, 0).tobytes() == top.as_read(targets).tobytes()
  assert whole.read(0, 0).tobytes() == whole.as_read(targets).tobytes() == targets.tobytes()
  size, = (path.stat().st_size for path in files(top.folder))
  assert size <= 64 * 10 * 4 + 32


def test_training_goes_on_where_targets_cannot_be_written(tmp_path, caplog):
  kept = opened(tmp_path)
  shutil.rmtree(kept.folder)
  kept.folder.write_text("")
  with caplog.at_level(logging.WARNING, "metamix_jax"):
    for number in range(9):
      kept.write(0, number % 3, FIRST)
    kept.flush()
  assert caplog.messages and all("cannot be written" in text for text in caplog.messages)
  written = len(caplog.messages)
  kept.write(1, 0, FIRST)
  kept.flush()
  assert len(caplog.messages) == written
