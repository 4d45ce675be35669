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
  """However short its compilation was, and whatever it depends on."""
  monkeypatch.setattr(saved_programs, "identity", lambda name, mapped, arguments: "the same")
  monkeypatch.setattr(saved_programs, "_least_seconds", lambda: 0.0)


def make(folder, factor=2.0, devices=1):
  """A training step: its state is donated, and its result has the state and metrics."""
  def step(state, batch):
    state = {name: value * factor for name, value in state.items()}
    return state, {"loss": jax.lax.pmean(jnp.sum(batch), "batch"), "more": {"sum": state["a"].sum()}}

  devices = jax.devices()[:devices]
  mapped = jax.pmap(
      step, axis_name="batch", in_axes=(None, 0), out_axes=None, donate_argnums=0, devices=devices)
  return SavedProgram("step", mapped, devices, folder), arguments(devices)


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
  monkeypatch.setattr(saved_programs, "identity", lambda name, mapped, arguments: "another")
  program, values = make(path.parent / "other")
  results(program, values)
  (path.parent / "other").joinpath(next((path.parent / "other").iterdir())).rename(path)
  monkeypatch.setattr(saved_programs, "identity", lambda name, mapped, arguments: "the same")


def another_result(path, monkeypatch):
  content = path.read_bytes()
  assert content.count(b'"loss"') == 1
  path.write_bytes(content.replace(b'"loss"', b'"lose"'))


def empty(path, monkeypatch):
  path.write_bytes(b"")


def no_json(path, monkeypatch):
  path.write_bytes(b"{}\n" + path.read_bytes())


def of_another_user(path, monkeypatch):
  other = os.stat(path).st_uid + 1
  monkeypatch.setattr(os, "geteuid", lambda: other)
  path.rename(path.with_name(path.name.replace(f".{other - 1}.", f".{other}.")))


def open_to_a_group(path, monkeypatch):
  path.chmod(0o620)


def a_link(path, monkeypatch):
  path.rename(path.with_name("real"))
  path.symlink_to(path.with_name("real"))


@pytest.mark.parametrize("damage", [
    cut, flip, rename, another_result, empty, no_json, of_another_user, open_to_a_group, a_link],
    ids=lambda damage: damage.__name__)
def test_no_other_file_is_ever_loaded(damage, tmp_path, monkeypatch):
  program, values = make(tmp_path)
  results(program, values)
  path, = tmp_path.iterdir()
  damage(path, monkeypatch)
  load, loaded = saved_programs.serialize_executable.deserialize_and_load, []
  monkeypatch.setattr(
      saved_programs.serialize_executable, "deserialize_and_load",
      lambda *arguments, **keywords: loaded.append(load(*arguments, **keywords)) or loaded[-1])
  program, values = make(tmp_path, factor=3.0)
  assert results(program, values)[0]["a"].tolist() == [0, 3, 6] and not loaded


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
  def refuse(name, mapped, arguments):
    raise NotDescribedError("a function of a user's module")

  monkeypatch.setattr(saved_programs, "identity", refuse)
  program, values = make(tmp_path)
  assert results(program, values)[0]["a"].tolist() == [0, 2, 4]
  assert not list(tmp_path.iterdir())


def test_a_batch_elsewhere_is_moved_by_the_mapped_step(tmp_path):
  program, _ = make(tmp_path, devices=4)
  state, metrics = program({"a": np.float32([1]), "b": jnp.ones(2)}, np.ones((4, 1, 2), np.float32))
  assert state["a"].tolist() == [2] and metrics["loss"] == 2
  assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_costs_nothing_else(tmp_path, monkeypatch, caplog):
  (tmp_path / "regular").touch()
  program, values = make(tmp_path / "regular" / "programs")
  with caplog.at_level(logging.INFO, "metamix_jax"):
    assert results(program, values)[0]["a"].tolist() == [0, 2, 4]
  assert "a compiled program was not saved" in caplog.text and "cannot be" in caplog.text


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path, monkeypatch, caplog):
  def full(descriptor, mode):
    os.close(descriptor)
    raise OSError(28, "No space left on device")

  program, values = make(tmp_path)
  with monkeypatch.context() as patch:
    patch.setattr(saved_programs, "_read", lambda *arguments: None)
    patch.setattr(saved_programs, "open", full, raising=False)
    with caplog.at_level(logging.INFO, "metamix_jax"):
      assert results(program, values)[0]["a"].tolist() == [0, 2, 4]
  assert "cannot be written (No space left on device)" in caplog.text and not list(tmp_path.iterdir())


def test_a_device_that_cannot_write_programs_runs_them(tmp_path, monkeypatch):
  def refuse(compiled):
    raise jax.errors.JaxRuntimeError("UNIMPLEMENTED")

  monkeypatch.setattr(saved_programs.serialize_executable, "serialize", refuse)
  program, values = make(tmp_path)
  assert results(program, values)[0]["a"].tolist() == [0, 2, 4]
  assert not list(tmp_path.iterdir())


def test_a_result_of_other_parts_is_not_saved(tmp_path):
  mapped = jax.pmap(lambda state, batch: [state["a"]], in_axes=(None, 0), out_axes=None, devices=jax.devices()[:1])
  program = SavedProgram("step", mapped, jax.devices()[:1], tmp_path)
  assert program(*arguments(jax.devices()[:1]))[0].tolist() == [0, 1, 2]
  assert not list(tmp_path.iterdir())


def test_programs_of_short_compilations_are_not_saved(tmp_path, monkeypatch):
  monkeypatch.setattr(saved_programs, "_least_seconds", lambda: 1e6)
  program, values = make(tmp_path)
  results(program, values)
  assert not list(tmp_path.iterdir())


def test_programs_of_jaxs_cache_are_not_saved(tmp_path):
  """On CPUs they could be loaded but would not run."""
  least = "jax_persistent_cache_min_compile_time_secs"
  before = jax.config.values[least]
  jax.config.update(least, 0.0)
  try:
    for number in range(2):  # A factor of its own: no other test has left this program in JAX's cache.
      program, values = make(tmp_path / str(number), factor=2.0 + 1 / 1024)
      results(program, values)
  finally:
    jax.config.update(least, before)
  assert len(list((tmp_path / "0").iterdir())) == 1 and not (tmp_path / "1").exists()


def test_states_elsewhere_are_moved_to_the_devices(tmp_path):
  """As the mapped step moves them: NumPy's arrays, and arrays on one device."""
  program, (_, batch) = make(tmp_path, devices=4)
  state = {"a": np.arange(3, dtype=np.float32), "b": jnp.ones((2, 2))}
  assert results(program, (state, batch))[0]["a"].tolist() == [0, 2, 4]
  assert len(list(tmp_path.iterdir())) == 1
  loaded, values = make(tmp_path, factor=3.0, devices=4)
  assert results(loaded, values)[0]["a"].tolist() == [0, 2, 4]


def test_all_programs_but_that_of_labels_are_saved(tmp_path, monkeypatch):
  programs = parallel.make_programs(jax.devices()[:1])
  saved = saved_programs.with_saved_programs(programs, tmp_path)
  assert saved.devices == programs.devices and saved.label_targets is programs.label_targets
  assert {name for name, value in saved._asdict().items() if isinstance(value, SavedProgram)} == set(
      programs._fields) - {"devices", "label_targets"}
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  assert saved_programs.with_saved_programs(programs, tmp_path) is programs
