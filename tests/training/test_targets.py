"""Targets of a phase from disk: the same training bit for bit, without the teacher."""

import dataclasses
import logging

import jax
import numpy as np
import pytest

from metamix_jax import experiment
from metamix_jax.method.bops import lowest_bits
from metamix_jax.training import phases, targets
from metamix_jax.training.context import prepare
from metamix_jax.training.fingerprint import digest_of_state
from metamix_jax.training.targets import KeptTeacherTargets, TeacherTargets
from tests.helpers.configs import tiny_config


@pytest.fixture(scope="module")
def work(data_dir):
  """A context whose teacher counts its calls in `calls`, its teacher, and the meta-state that stages start from."""
  context = prepare(tiny_config(data_dir))
  meta = phases.create_student(context)
  teacher = experiment.create_teacher(context, meta)
  meta = experiment.on_host(phases.start_step_sizes(context, meta).without_optimizer())
  return context, teacher, meta


def counted(context, calls):
  """The context with a teacher's program that counts its calls."""
  program = context.programs.teacher_targets

  def teacher_targets(teacher, batch):
    calls.append(None)
    return program(teacher, batch)

  teacher_targets.lower = program.lower
  return dataclasses.replace(context, programs=context.programs._replace(teacher_targets=teacher_targets))


def trained(context, teacher, meta):
  """Returns (digest of the state after stage A, calls of the teacher)."""
  calls, bits = [], lowest_bits(context.network.layers)
  state, _ = phases.train_weights(counted(context, calls), "stage_a", context.replicate(meta), bits, teacher)
  return digest_of_state(state), len(calls)


def with_kept(context, folder, **fields):
  config = context.config.copy_and_resolve_references()
  config.teacher.kept_targets = str(folder)
  for name, value in fields.items():
    config[name] = value
  return dataclasses.replace(context, config=config)


def test_training_on_kept_targets_is_that_on_the_teachers_bit_for_bit(work, tmp_path, caplog):
  context, teacher, meta = work
  num_steps = context.config.stage_a.epochs * context.data.steps_per_epoch
  plain, calls = trained(context, teacher, meta)
  assert calls == num_steps
  kept = with_kept(context, tmp_path / "kept")
  assert trained(kept, teacher, meta) == (plain, num_steps)
  caplog.clear()
  with jax.log_compiles(), caplog.at_level(logging.DEBUG, "jax"):
    assert trained(kept, teacher, meta) == (plain, 0)
  # Targets from disk run in the program that the teacher's run in.
  assert not [text for text in caplog.messages if "XLA compilation of weight_step" in text]
  file = next(path for path in (tmp_path / "kept").rglob("*") if "/c/" in str(path) and path.is_file())
  file.write_bytes(file.read_bytes()[:-1])
  assert trained(kept, teacher, meta) == (plain, 1)
  assert trained(kept, teacher, meta) == (plain, 0)


def test_targets_are_those_of_the_same_images_and_the_same_teacher(work, tmp_path):
  context, teacher, meta = work
  folders = set()

  def folder_of(context, teacher):
    folder = KeptTeacherTargets(context, teacher, tmp_path, 1e9)._kept.folder
    folders.add(folder)
    return folder

  first = folder_of(context, teacher)
  assert folder_of(context, teacher) == first
  assert folder_of(with_kept(context, tmp_path, log_every_seconds=1.0), teacher) == first
  other_weights = teacher.replace(weights=jax.tree.map(lambda leaf: leaf + np.float32(1e-7), teacher.weights))
  for other in ((context, other_weights), (context, teacher.replace(dtype="bfloat16")),
                (with_kept(context, tmp_path, seed=1), teacher)):
    assert folder_of(*other) != first
  assert len(folders) == 4


def test_a_phase_that_goes_on_within_an_epoch_reads_from_there(work, tmp_path):
  context, teacher, _ = work
  batches = lambda first: list(context.data.train_epoch(3, first))
  kept = KeptTeacherTargets(context, teacher, tmp_path, 1e9)
  plain = TeacherTargets(context, teacher)
  expected = []
  for batch in context.place(kept.read(iter(batches(0)), 3, 0)):
    assert "target" not in batch
    expected.append(np.asarray(kept.add(batch)["target"]))
  kept.close()
  assert len(expected) == context.data.steps_per_epoch > 2
  again = KeptTeacherTargets(context, teacher, tmp_path, 1e9)
  for number, batch in enumerate(context.place(again.read(iter(batches(2)), 3, 2)), 2):
    assert np.asarray(again.add(batch)["target"]).tobytes() == expected[number].tobytes()
  for number, batch in enumerate(context.place(iter(batches(0)))):
    assert np.asarray(plain.add(batch)["target"]).tobytes() == expected[number].tobytes()


def test_training_on_kept_classes_does_not_depend_on_what_is_kept(work, tmp_path):
  context, teacher, meta = work
  num_steps = context.config.stage_a.epochs * context.data.steps_per_epoch
  plain, _ = trained(context, teacher, meta)
  kept = with_kept(context, tmp_path)
  kept.config.teacher.kept_classes = 2
  first, calls = trained(kept, teacher, meta)
  assert calls == num_steps and first != plain
  assert trained(kept, teacher, meta) == (first, 0)
  kept.config.teacher.kept_targets = str(tmp_path / "other")
  kept.config.teacher.kept_gigabytes = 1e-9
  assert trained(kept, teacher, meta) == (first, num_steps)
  assert trained(kept, teacher, meta) == (first, num_steps)  # There is no room to keep any.


def test_repeated_epochs_need_the_teacher_once(work, tmp_path):
  context, teacher, meta = work
  kept = with_kept(context, tmp_path)
  kept.config.stage_a.epochs, kept.config.data.repeat_epochs = 3, 2
  first, calls = trained(kept, teacher, meta)
  assert calls == 2 * context.data.steps_per_epoch
  kept.config.data.repeat_epochs = None
  other, calls = trained(kept, teacher, meta)
  assert other != first and calls > 0


def test_where_another_process_lacks_its_part_all_run_the_teacher(work, tmp_path, monkeypatch):
  context, teacher, meta = work
  kept = with_kept(context, tmp_path)
  plain, num_steps = trained(kept, teacher, meta)
  monkeypatch.setattr(targets.multihost, "total", lambda missing: missing + 1)
  assert trained(kept, teacher, meta) == (plain, num_steps)
  monkeypatch.undo()
  assert trained(kept, teacher, meta) == (plain, 0)
