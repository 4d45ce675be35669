"""Saved trees are compared with what is needed, name by name."""

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from metamix_jax.errors import UserError
from metamix_jax.records.saved_arrays import find_difference, restore_everywhere

WEIGHTS = {"conv": {"kernel": np.ones((3, 4), np.float32)}, "classifier": {"bias": np.arange(10, dtype=np.float32)}}


def state(weights):
  """Weights and an optimiser's state, with an empty collection."""
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
  return {"weights": weights, "step_sizes": {}, "optimizer": jax.device_get(optimizer.init(weights)),
          "step": np.int32(3)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  folder = tmp_path_factory.mktemp("saved") / "state"
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(folder, state(WEIGHTS))
  return folder


def changed(**arrays):
  return state(WEIGHTS | {name: {"bias": values} for name, values in arrays.items()})


def test_the_same_tree(saved):
  assert find_difference(saved, state(WEIGHTS)) is None
  (restored, rest), reason = restore_everywhere(saved, state(WEIGHTS), lambda: "rest")
  jax.tree.map(np.testing.assert_array_equal, restored, state(WEIGHTS))
  assert (rest, reason) == ("rest", "")


@pytest.mark.parametrize("needed, difference", [
    (changed(classifier=np.zeros(5, np.float32)),
     "optimizer/1/0/mu/classifier/bias is float32 [10] there and float32 [5] here"),
    (state(WEIGHTS) | {"weights": changed(classifier=np.zeros((10, 1), np.float32))["weights"]},
     "weights/classifier/bias is float32 [10] there and float32 [10, 1] here"),
    (state(WEIGHTS) | {"step": np.float32(3)}, "step is int32 [] there and float32 [] here"),
    (state(WEIGHTS) | {"step_sizes": {"conv": np.float32(1)}},
     "step_sizes/conv is missing there and float32 [] here"),
    ({"weights": WEIGHTS, "step": np.int32(0)}, "optimizer/1/0/count is int32 [] there and not needed here"),
])
def test_another_tree_is_one_sentence(saved, needed, difference):
  assert find_difference(saved, needed) == difference
  with pytest.raises(UserError, match="state is of another network or another version of its code: ") as caught:
    restore_everywhere(saved, needed, lambda: None)
  assert f": {difference}; bring the earlier network back, or choose another workdir." in str(caught.value)


def test_damage_is_no_difference(saved, tmp_path):
  assert find_difference(tmp_path / "none", state(WEIGHTS)) is None
  restored, reason = restore_everywhere(tmp_path / "none", state(WEIGHTS), lambda: None)
  assert restored is None and reason and "\n" not in reason
  restored, reason = restore_everywhere(saved, state(WEIGHTS), lambda: open(tmp_path / "none"))
  assert (restored, reason) == (None, "No such file or directory")
