"""Programs on disk: loaded where they are the user's own and whole, compiled anew everywhere else."""

import logging
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metamix_jax.training import parallel, saved_programs
from metamix_jax.training.program_identity import NotDescribedError
from metamix_jax.training.saved_programs import SavedProgram


@pytest.fixture(autouse=True)
def every_program_is_saved(monkeypatch):
  """However short its compilation was, and whatever it depends on; JAX's own cache has none of them."""
  monkeypatch.setattr(saved_programs, "identity", lambda mapped, arguments: "the same")
  values = dict(jax.config.values) | {"jax_persistent_cache_min_compile_time_secs": 0.0}
  monkeypatch.setattr(saved_programs.jax, "config", type("Config", (), {"values": values}))


def make(folder, factor=2.0, devices=1):
  """A training step: its state is donated, and its result has the state and metrics."""
  def step(state, batch):
    state = {name: value * factor for name, value in state.items()}
    return state, {"loss": jax.lax.pmean(jnp.sum(batch), "batch"), "more": {"sum": state["a"].sum()}}

  devices = jax.devices()[:devices]
  mapped = jax.pmap(
      step, axis_name="batch", in_axes=(None, 0), out_axes=None, donate_argnums=0, devices=devices)
  return SavedProgram(mapped, devices, folder), arguments(devices)


def arguments(devices):
  state = parallel.replicate({"a": np.arange(3.0, dtype=np.float32), "b": np.ones((2, 2), np.float32)}, devices)
  batch, = parallel.place_batches([{"x": np.ones((4, 2), np.float32)}], devices)
  return state, batch["x"]


def results(program, values):
  return jax.tree.map(np.asarray, jax.device_get(program(*values)))


def assert_equal(first, second):
  assert jax.tree.structure(first) == jax.tree.structure(second)
  jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize("devices", [1, 4])
def test_a_program_is_loaded_and_not_traced_again(devices, tmp_path):
  program, values = make(tmp_path, devices=devices)
  expected = results(program, values)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(values[0]))
  path, = tmp_path.iterdir()
  assert path.stat().st_mode & 0o777 == 0o600
  # Another factor under the same identity: only a program that was loaded still doubles.
  loaded, values = make(tmp_path, factor=3.0, devices=devices)
  assert_equal(results(loaded, values), expected)
  assert expected[0]["a"].tolist() == [0, 2, 4] and expected[1]["more"]["sum"] == 6
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(values[0]))
  assert_equal(results(loaded, arguments(jax.devices()[:devices])), expected)


def cut(path, monkeypatch):
  path.write_bytes(path.read_bytes()[:-1])


def flip(path, monkeypatch):
  content = bytearray(path.read_bytes())
  content[-10] ^= 1
  path.write_bytes(content)


def rename(path, monkeypatch):
  monkeypatch.setattr(saved_programs, "identity", lambda mapped, arguments: "another")
  program, values = make(path.parent / "other")
  results(program, values)
  (path.parent / "other").joinpath(next((path.parent / "other").iterdir())).rename(path)
  monkeypatch.setattr(saved_programs, "identity", lambda mapped, arguments: "the same")


def empty(path, monkeypatch):
  path.write_bytes(b"")


def no_json(path, monkeypatch):
  path.write_bytes(b"{}\n" + path.read_bytes())


def of_another_user(path, monkeypatch):
  monkeypatch.setattr(os, "geteuid", lambda: os.stat(path).st_uid + 1)


def open_to_a_group(path, monkeypatch):
  path.chmod(0o620)


def a_link(path, monkeypatch):
  path.rename(path.with_name("real"))
  path.symlink_to(path.with_name("real"))


@pytest.mark.parametrize("damage", [
    cut, flip, rename, empty, no_json, of_another_user, open_to_a_group, a_link], ids=lambda f: f.__name__)
def test_no_other_file_is_ever_loaded(damage, tmp_path, monkeypatch):
  program, values = make(tmp_path)
  results(program, values)
  path, = tmp_path.iterdir()
  damage(path, monkeypatch)
  monkeypatch.setattr(saved_programs.serialize_executable, "deserialize_and_load", None)  # Nothing may come this far.
  program, values = make(tmp_path, factor=3.0)
  assert results(program, values)[0]["a"].tolist() == [0, 3, 6]


def test_a_file_that_jax_refuses_is_compiled_anew(tmp_path, monkeypatch, caplog):
  program, values = make(tmp_path)
  results(program, values)

  def refuse(*arguments, **keywords):
    raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: of another machine")

  monkeypatch.setattr(saved_programs.serialize_executable, "deserialize_and_load", refuse)
  program, values = make(tmp_path, factor=3.0)
  with caplog.at_level(logging.INFO, "metamix_jax"):
    assert results(program, values)[0]["a"].tolist() == [0, 3, 6]
  assert "not loaded (INVALID_ARGUMENT: of another machine)" in caplog.text


def test_what_has_no_identity_runs_as_it_is(tmp_path, monkeypatch):
  def refuse(mapped, arguments):
    raise NotDescribedError("a function of a user's module")

  monkeypatch.setattr(saved_programs, "identity", refuse)
  program, values = make(tmp_path)
  assert results(program, values)[0]["a"].tolist() == [0, 2, 4]
  assert not list(tmp_path.iterdir())


def test_arrays_elsewhere_are_moved_as_the_mapped_step_moves_them(tmp_path):
  program, _ = make(tmp_path, devices=4)
  state, metrics = program({"a": np.float32([1]), "b": jnp.ones(2)}, np.ones((4, 1, 2), np.float32))
  assert state["a"].tolist() == [2] and metrics["loss"] == 2
  assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_costs_nothing_else(tmp_path, monkeypatch, caplog):
  (tmp_path / "regular").touch()
  program, values = make(tmp_path / "regular" / "programs")
  with caplog.at_level(logging.INFO, "metamix_jax"):
    assert results(program, values)[0]["a"].tolist() == [0, 2, 4]
  assert "a compiled program was not kept" in caplog.text and "cannot be" in caplog.text


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path, monkeypatch):
  monkeypatch.setattr(saved_programs.zlib, "compress", lambda payload, level: FullDisk())
  program, values = make(tmp_path)
  assert results(program, values)[0]["a"].tolist() == [0, 2, 4]
  assert not list(tmp_path.iterdir())


class FullDisk(bytes):
  """Content that cannot be written."""

  def __radd__(self, other):
    raise OSError(28, "No space left on device")


def test_a_result_of_other_parts_is_not_saved(tmp_path):
  mapped = jax.pmap(lambda state, batch: [state["a"]], in_axes=(None, 0), out_axes=None, devices=jax.devices()[:1])
  program = SavedProgram(mapped, jax.devices()[:1], tmp_path)
  assert program(*arguments(jax.devices()[:1]))[0].tolist() == [0, 1, 2]
  assert not list(tmp_path.iterdir())


def test_programs_of_short_compilations_and_of_jaxs_cache_are_not_saved(tmp_path, monkeypatch):
  monkeypatch.setitem(saved_programs.jax.config.values, "jax_persistent_cache_min_compile_time_secs", 1e6)
  program, values = make(tmp_path)
  results(program, values)
  monkeypatch.setitem(saved_programs.jax.config.values, "jax_persistent_cache_min_compile_time_secs", 0.0)
  program, values = make(tmp_path)
  lower = program._mapped.lower

  def with_a_hit(*arguments):
    jax.monitoring.record_event(saved_programs._CACHE_HIT)
    return lower(*arguments)

  program._mapped = type("Mapped", (), {"lower": staticmethod(with_a_hit)})
  results(program, values)
  assert not list(tmp_path.iterdir())


def test_all_programs_but_that_of_labels_are_saved(tmp_path, monkeypatch):
  programs = parallel.make_programs(jax.devices()[:1])
  saved = saved_programs.with_saved_programs(programs, tmp_path)
  assert saved.devices == programs.devices and saved.label_targets is programs.label_targets
  assert {name for name, value in saved._asdict().items() if isinstance(value, SavedProgram)} == set(
      programs._fields) - {"devices", "label_targets"}
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  assert saved_programs.with_saved_programs(programs, tmp_path) is programs
