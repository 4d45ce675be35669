"""Many targets from one meta-state: each searched as if it were alone; their names, and what a config may say."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metamix_jax.errors import UserError
from metamix_jax.records.names import name_for_target, targets, trained_targets
from metamix_jax.training import context, loop, parallel, phases
from metamix_jax.training.optimizers import arch_optimizer
from metamix_jax.training.state import create_arch_states
from metamix_jax.training.targets import LabelTargets
from tests.helpers.configs import tiny_config

TARGETS = (0.0006, 0.0008, 0.001)


@pytest.mark.slow
def test_each_alpha_is_the_one_of_its_target_alone(data_dir):
  """20 iterations on digits, three targets together and each by itself; no search has a part in the meta-state."""
  work = dataclasses.replace(context.prepare(tiny_config(data_dir)), programs=parallel.make_programs(jax.devices()[:1]))
  optimizer = arch_optimizer(3e-2, beta1=0.5, beta2=0.999, epsilon=1e-8, l2=1e-3)
  together, *alone = (
      work.replicate(create_arch_states(
          work.network, optimizer, seed=0, initial_std=1e-3, targets_gbops=targets_gbops,
          penalty_weights=[13.24 / target for target in targets_gbops]))
      for targets_gbops in (TARGETS, *((target,) for target in TARGETS)))
  meta = phases.start_step_sizes(work, phases.create_student(work))
  meta = work.replicate(meta.with_optimizer(work.weight_optimizer(1e-3)))
  batches = itertools.chain.from_iterable(work.place(work.data.train_epoch(epoch)) for epoch in range(4))
  for batch in batches:
    batch = work.programs.label_targets(work.data.num_classes, batch)
    meta, _ = work.programs.bit_meta_step(meta, batch)
    together, _ = work.programs.bit_search_steps(together, meta, batch)
    alone = [work.programs.bit_search_steps(arch, meta, batch)[0] for arch in alone]
  assert together.step.tolist() == [20, 20, 20] and not np.any(together.bad_step)
  for index, arch in enumerate(alone):
    for name, alpha in arch.alpha.items():
      np.testing.assert_allclose(together.alpha[name][index], alpha[0], rtol=1e-5, err_msg=f"{name}, {TARGETS[index]}")
  assert any(np.any(np.abs(alpha[0] - alpha[2]) > 0.1) for alpha in together.alpha.values())  # Targets matter.


def test_names_of_one_and_of_several(data_dir):
  config = tiny_config(data_dir)
  assert targets(config) == trained_targets(config) == (0.0008,)
  assert name_for_target("stage_a", 0.0008, targets(config)) == "stage_a"
  config.arch.target_gbops, config.arch.train_targets = (1, 2.5), (2.5, 1)
  assert trained_targets(config) == (1, 2.5)
  assert name_for_target("stage_a", 2.5, targets(config)) == "stage_a_2.5"


def test_bits_of_one_run_for_several_targets(data_dir):
  config = tiny_config(data_dir)
  config.arch.target_gbops, config.bits_from = TARGETS, "bits.json"
  with pytest.raises(ValueError, match="bits_from is bits.json, which holds the bits of one target; .* has 3, and"):
    context.prepare(config)


def test_steps_after_the_last_look_are_looked_at_too(data_dir):
  """Nothing is recorded, saved or printed here before the end of the phase."""
  config = tiny_config(data_dir)
  config.metrics.every_steps, config.log_every_seconds = 0, 1e6
  work = context.prepare(config)
  last_step = 2 * work.data.steps_per_epoch

  def step(state, epoch, batch):
    taken = state["meta"].step + 1
    bad_step = np.int32(last_step if taken == last_step else 0)
    return {"meta": state["meta"].replace(step=taken, bad_step=bad_step)}, {"loss": jnp.float32(0)}

  with pytest.raises(UserError, match=f"^bit_selection, step {last_step}: the training loss or its gradient is"):
    loop.train(
        work, loop.Phase("bit_selection", "bit_selection"), {"meta": phases.create_student(work)}, LabelTargets(work),
        step)


def test_a_target_whose_search_is_not_finite_is_named(data_dir):
  work = context.prepare(tiny_config(data_dir))
  archs = create_arch_states(
      work.network, optax.sgd(1.0), seed=0, initial_std=1e-3, targets_gbops=TARGETS,
      penalty_weights=[1.0 / target for target in TARGETS])
  archs = archs.replace(bad_step=np.array([0, 3, 2], np.int32))
  assert (work.config.bit_selection.meta_only_epochs, work.data.steps_per_epoch) == (1, 5)  # The search's first is 6.
  with pytest.raises(UserError, match=(
      r"bit_selection, step 7: the bit-search \(target 0.0008, 0.001\) loss or its .* nothing after step 6 was kept; "
      "lower config.arch.learning_rate or look at the data.$")):
    loop.train(
        work, loop.Phase("bit_selection", "bit_selection"), {"meta": phases.create_student(work), "arch": archs},
        LabelTargets(work), lambda state, epoch, batch: (state, {"loss": np.float32(0)}))
