"""The ablations of the ledger do what their names say, on a network whose programs compile in a second."""

import dataclasses

import jax
import numpy as np
import pytest

from metamix_jax.method.precision import mixed_precision, precision_at_width
from metamix_jax.training import optimizers, parallel
from metamix_jax.training.alternation import alternate
from metamix_jax.training.state import create_arch_states
from tests.helpers.claims import ablations
from tests.helpers.dense_network import dense_batch, dense_network, dense_state

pytestmark = pytest.mark.slow  # Eight programs are compiled.


@dataclasses.dataclass(frozen=True)
class Context:
  """What a fork reads of a TrainingContext."""

  config: object
  programs: parallel.Programs
  alternation: object = alternate


@dataclasses.dataclass(frozen=True)
class Config:
  matmul_precision: str = "highest"


@pytest.fixture(scope="module")
def context():
  return Context(Config(), parallel.make_programs(jax.devices()[:1]))


@pytest.fixture(scope="module")
def batch():
  return parallel.split_batch(dense_batch(), 1)


@pytest.fixture(scope="module")
def states():
  """A meta-state whose updates are its gradients, and alpha of one target."""
  network = dense_network()
  archs = create_arch_states(
      network, optimizers.arch_optimizer(3e-2, beta1=0.5, beta2=0.999, epsilon=1e-8, l2=1e-3), seed=0,
      initial_std=0.3, targets_gbops=(1e-6,), penalty_weights=(1.0,))
  return dense_state(network), jax.device_get(archs)


def assert_close(a, b):
  a, b = jax.device_get((a, b))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-6), a, b)


def of_one_target(archs):
  return {name: alpha[0] for name, alpha in archs.alpha.items()}


def test_a_joint_step_is_a_search_step_and_a_weight_step_on_the_same_mixture(context, states, batch):
  meta, archs = states
  (moved, searched), metrics = ablations.joint_program(context)(meta, archs, batch)
  expected_archs, search = context.programs.bit_search_steps(archs, meta, batch)
  precision = mixed_precision(meta.network.layers, of_one_target(archs))
  expected_meta, weight = context.programs.weight_step(meta, precision, batch)
  assert_close(searched.alpha, expected_archs.alpha)
  assert_close((moved.weights, moved.step_sizes, moved.batch_stats),
               (expected_meta.weights, expected_meta.step_sizes, expected_meta.batch_stats))
  assert_close(metrics, {"loss": weight["loss"], "search_loss": search["task_loss"], "gbops": search["gbops"]})
  for layer in meta.network.layers:
    for before, after in ((meta.weights, moved.weights), (meta.step_sizes, moved.step_sizes)):
      leaf = "kernel" if before is meta.weights else "activation"
      assert np.any(before[layer.name][leaf] != np.asarray(after[layer.name][leaf])), (layer.name, leaf)


def test_weights_move_for_one_target_alone(context, states, batch):
  meta, archs = states
  two = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf]), archs)
  with pytest.raises(ValueError, match="2 targets are searched; weights can move for one alone"):
    ablations.joint_program(context)(meta, two, batch)


def test_the_release_takes_the_gradient_of_the_last_width_alone(context, states, batch):
  meta, _ = states
  fork = ablations.last_width_alone(context)
  moved, metrics = fork.programs.bit_meta_step(meta, batch)
  last = precision_at_width(meta.network.layers, np.int32(2))
  expected, _ = context.programs.weight_step(meta, last, batch)
  assert_close((moved.weights, moved.step_sizes), (expected.weights, expected.step_sizes))
  mean, expected_metrics = context.programs.bit_meta_step(meta, batch)
  # Losses of all widths, and running statistics that all have moved, are those of the mean's step.
  assert_close((metrics, moved.batch_stats), (expected_metrics, mean.batch_stats))
  # The step sizes of the two other widths keep their start.
  for layer in meta.network.searched_layers:
    before, after = (np.asarray(state.step_sizes[layer.name]["activation"]) for state in (meta, moved))
    assert (before == after).tolist() == [True, True, False]
  assert fork.programs.devices == context.programs.devices


def test_what_the_forks_change_of_the_alternation(context, states, batch):
  meta, archs = states
  joint = ablations.joint_program(context)
  # Both together: a joint step and nothing else.
  found, found_archs, metrics = ablations.searched_together(context).alternation(context.programs, meta, archs, batch)
  (expected, expected_archs), _ = joint(meta, archs, batch)
  assert_close((found.weights, found_archs.alpha), (expected.weights, expected_archs.alpha))
  assert set(metrics) == {"loss", "search_loss", "gbops"}
  # Moving weights: a bit-meta step, then a joint step from its state.
  found, found_archs, metrics = ablations.moving_weights(context).alternation(context.programs, meta, archs, batch)
  after, meta_metrics = context.programs.bit_meta_step(meta, batch)
  (expected, expected_archs), _ = joint(jax.device_get(after), archs, batch)
  assert_close((found.weights, found_archs.alpha), (expected.weights, expected_archs.alpha))
  assert set(metrics) == {"loss", "loss_by_candidate", "search_loss", "gbops"}
  assert float(metrics["loss"]) == float(meta_metrics["loss"])
  # The method: its search leaves the meta-state of the bit-meta step as it is, and has the same alpha.
  kept, method_archs, _ = alternate(context.programs, meta, archs, batch)
  assert_close(kept.weights, after.weights)
  assert_close(method_archs.alpha, found_archs.alpha)


def test_a_joint_step_passes_the_network_once(context, states, batch):
  """The compiler computes what its two parts share once: fewer operations than in both apart."""
  meta, archs = states
  precision = mixed_precision(meta.network.layers, of_one_target(archs))

  def operations(program, *arguments):
    return program.lower(*arguments).compile().cost_analysis()["flops"]

  apart = operations(context.programs.bit_search_steps, archs, meta, batch) + operations(
      context.programs.weight_step, meta, precision, batch)
  together = operations(ablations.joint_program(context), meta, archs, batch)
  assert together < 0.8 * apart
