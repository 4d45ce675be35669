"""Weights from files: what is read, what is refused and how it is said."""

import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from metamix_jax.models import pretrained
from tests.helpers.golden_weights import golden_state_dict

NETWORK = "mobilenet_v3_small"


@pytest.fixture(scope="module")
def state_dict():
  return golden_state_dict(NETWORK, 0)
def write(path, state_dict):
  save_file(state_dict, path)
  return path


def test_every_number_arrives_once(state_dict, tmp_path):
  tree = pretrained.convert_file(write(tmp_path / "w.safetensors", state_dict), NETWORK)
  theirs = [values.ravel() for name, values in state_dict.items() if not name.endswith("num_batches_tracked")]
  ours = [values.ravel() for values in jax.tree.leaves(tree)]
  np.testing.assert_array_equal(np.sort(np.concatenate(ours)), np.sort(np.concatenate(theirs)))
  np.testing.assert_array_equal(
      tree["weights"]["block_00"]["depthwise"]["kernel"][0, 2, 0],
      state_dict["features.1.block.0.0.weight"][:, 0, 0, 2])


def test_number_of_classes_comes_from_the_file(state_dict, tmp_path):
  ten = state_dict | {
      "classifier.3.weight": state_dict["classifier.3.weight"][:10], "classifier.3.bias": np.zeros(10, np.float32)}
  tree = pretrained.convert_file(write(tmp_path / "w.safetensors", ten), NETWORK)
  assert tree["weights"]["classifier"]["kernel"].shape == (1024, 10)


@pytest.mark.parametrize("change, sentence", [
    (lambda s: s.pop("features.4.block.2.fc1.bias"),
     "has no 'features.4.block.2.fc1.bias', which mobilenet_v3_small needs for block_03/squeeze_excite/squeeze/bias"),
    (lambda s: s.update({"features.99.weight": np.zeros(3, np.float32)}),
     r"has 'features.99.weight', which mobilenet_v3_small does not have \(1 such keys\)"),
    (lambda s: s.update({"features.0.0.weight": np.zeros((16, 3, 5, 5), np.float32)}),
     r"'features.0.0.weight' of shape \(16, 3, 5, 5\); this mobilenet_v3_small needs \(16, 3, 3, 3\)"),
    (lambda s: s.pop("classifier.3.bias"), "has no 'classifier.3.bias'"),
])
def test_keys_that_do_not_fit_are_named(state_dict, tmp_path, change, sentence):
  changed = dict(state_dict)
  change(changed)
  with pytest.raises(ValueError, match=sentence):
    pretrained.convert_file(write(tmp_path / "w.safetensors", changed), NETWORK)


def test_damaged_missing_and_foreign_files(state_dict, tmp_path):
  whole = write(tmp_path / "w.safetensors", state_dict).read_bytes()
  (tmp_path / "half.safetensors").write_bytes(whole[:len(whole) // 2])
  (tmp_path / "weights.npz").write_bytes(b"")
  for path, network, sentence in (
      ("half.safetensors", NETWORK, "half.safetensors cannot be read as a state dict"),
      ("weights.npz", NETWORK, "is no file of weights; allowed are .safetensors, .pth, or an imported folder"),
      ("none.pth", NETWORK, "none.pth is not there"),
      ("w.safetensors", "resnet34", "resnet34 is none of its networks; allowed are mobilenet_v2, "),
      ("w.safetensors", "mobilenet_v2", "has no 'classifier.1.bias', which mobilenet_v2 needs"),
  ):
    with pytest.raises(ValueError, match=sentence) as caught:
      pretrained.convert_file(tmp_path / path, network)
    assert "\n" not in str(caught.value)


def test_folder_of_another_network(state_dict, tmp_path):
  tree = pretrained.convert_file(write(tmp_path / "w.safetensors", state_dict), NETWORK)
  pretrained.save(str(tmp_path / "imported"), tree)
  del tree["weights"]["head"]
  with pytest.raises(ValueError, match="imported holds no weights of this mobilenet_v3_small") as caught:
    pretrained.load(str(tmp_path / "imported"), NETWORK, tree)
  assert "\n" not in str(caught.value)


def test_pth_without_torch_says_what_to_install(tmp_path, monkeypatch):
  (tmp_path / "w.pth").write_bytes(b"")
  monkeypatch.setitem(sys.modules, "torch", None)
  with pytest.raises(ValueError, match=r"w.pth cannot be read without torch: pip install 'metamix_jax\[torch\]'"):
    pretrained.convert_file(tmp_path / "w.pth", NETWORK)


@pytest.mark.torch
def test_pth_equals_safetensors(state_dict, tmp_path):
  import torch  # Not a dependency of the tests.
  torch.save({name: torch.from_numpy(np.array(values)) for name, values in state_dict.items()}, tmp_path / "w.pth")
  jax.tree.map(
      np.testing.assert_array_equal, pretrained.convert_file(tmp_path / "w.pth", NETWORK),
      pretrained.convert_file(write(tmp_path / "w.safetensors", state_dict), NETWORK))
  torch.save({"pickled": test_pth_equals_safetensors}, tmp_path / "code.pth")
  with pytest.raises(ValueError, match="code.pth cannot be read as a state dict"):  # weights_only: no code is run.
    pretrained.convert_file(tmp_path / "code.pth", NETWORK)
