"""Weights from files: what is read, what is refused and how it is said."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from metamix_jax.errors import UserError
from metamix_jax.models import create_network, pretrained
from metamix_jax.nn.scheme import QuantizationScheme
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
      ("weights.npz", NETWORK, "is not a file of weights; allowed are .safetensors, .pth, .*, or an imported folder"),
      ("none.pth", NETWORK, "none.pth does not exist"),
      ("w.safetensors", "resnet34", "resnet34 is none of its networks; allowed are mobilenet_v2, "),
      ("w.safetensors", "mobilenet_v2", "has no 'classifier.1.bias', which mobilenet_v2 needs for "
       "classifier/bias; the first of its 210 names is 'classifier.0.bias'"),
  ):
    with pytest.raises(ValueError, match=sentence) as caught:
      pretrained.convert_file(tmp_path / path, network)
    assert "\n" not in str(caught.value)


def test_folder_of_another_network(state_dict, tmp_path):
  tree = pretrained.convert_file(write(tmp_path / "w.safetensors", state_dict), NETWORK)
  pretrained.save(str(tmp_path / "imported"), tree)
  del tree["weights"]["head"]
  with pytest.raises(UserError, match=r"imported has 'head/kernel' as float32 \(1, 1, 96, 576\); this "
                     "mobilenet_v3_small needs nothing.$"):
    pretrained.load(str(tmp_path / "imported"), NETWORK, tree)
  (tmp_path / "empty").mkdir()
  with pytest.raises(UserError, match="^.*empty holds no weights of this mobilenet_v3_small") as caught:
    pretrained.load(str(tmp_path / "empty"), NETWORK, tree)
  assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def imported(state_dict, tmp_path_factory):
  """A folder of weights for 1,000 classes, and its tree."""
  folder = tmp_path_factory.mktemp("imported")
  tree = pretrained.convert_file(write(folder / "w.safetensors", state_dict), NETWORK)
  pretrained.save(str(folder / "imported"), tree)
  return folder, tree


def for_classes(count):
  """The tree of a network for another number of classes: zeros."""
  module = create_network(NETWORK, count, QuantizationScheme((8,), 8, 8), {})
  return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), pretrained.variable_shapes(module))


@pytest.mark.parametrize("name, leaf", [
    ("imported", "'classifier/bias' as float32 (1000,); this mobilenet_v3_small needs float32 (10,)"),
    ("w.safetensors", "'classifier.3.bias' of shape (1000,); this mobilenet_v3_small needs (10,)")])
def test_another_number_of_classes_is_refused_or_gets_a_new_classifier(imported, name, leaf):
  folder, tree = imported
  like = for_classes(10)
  with pytest.raises(UserError) as caught:
    pretrained.load(str(folder / name), NETWORK, like)
  assert f"{name} has {leaf}; for another number of classes, set config.pretraining.new_classifier to True" in str(
      caught.value)
  loaded = pretrained.load(str(folder / name), NETWORK, like, pretrained.CLASSIFIER)
  jax.tree.map(np.testing.assert_array_equal, loaded["batch_stats"], tree["batch_stats"])
  jax.tree.map(np.testing.assert_array_equal, loaded["weights"] | {"classifier": tree["weights"]["classifier"]},
               tree["weights"])
  assert loaded["weights"]["classifier"]["kernel"].shape == (1024, 10)
  assert not loaded["weights"]["classifier"]["kernel"].any()


def test_a_headless_file_is_enough_for_a_new_classifier(state_dict, tmp_path):
  headless = {name: values for name, values in state_dict.items() if not name.startswith("classifier.3")}
  loaded = pretrained.load(str(write(tmp_path / "w.safetensors", headless)), NETWORK, for_classes(3), "classifier")
  assert loaded["weights"]["classifier"]["bias"].shape == (3,)
  np.testing.assert_array_equal(
      loaded["weights"]["stem"]["kernel"][1, 2, 0], headless["features.0.0.weight"][:, 0, 1, 2])


@pytest.mark.parametrize("change, sentence", [
    (lambda tree: tree["weights"]["stem"].update(kernel=np.zeros((3, 3, 1, 16), np.float32)),
     "'stem/kernel' as float32 (3, 3, 1, 16); this mobilenet_v3_small needs float32 (3, 3, 3, 16)."),
    (lambda tree: tree["weights"]["stem"].update(kernel=np.zeros((3, 3, 3, 16), np.int32)),
     "'stem/kernel' as int32 (3, 3, 3, 16); this mobilenet_v3_small needs float32 (3, 3, 3, 16)."),
    (lambda tree: tree["weights"]["stem"].update(bias=np.zeros(16, np.float32)),
     "'stem/bias' as float32 (16,); this mobilenet_v3_small needs nothing."),
    (lambda tree: tree["batch_stats"]["stem_norm"].pop("mean"),
     "'stem_norm/mean' as nothing; this mobilenet_v3_small needs float32 (16,)."),
    (lambda tree: tree["weights"]["stem_norm"]["scale"].fill(np.nan),
     "'stem_norm/scale' with 16 of 16 values that are not finite in float32; "),
    (lambda tree: tree["batch_stats"]["stem_norm"]["var"].fill(-0.25),
     "'stem_norm/var' with variances as low as -0.25, and none may be negative; "),
])
def test_every_leaf_of_a_folder_is_looked_at(imported, tmp_path, change, sentence):
  _, tree = imported
  changed = jax.tree.map(np.array, tree)
  change(changed)
  pretrained.save(str(tmp_path / "changed"), changed)
  with pytest.raises(UserError) as caught:
    pretrained.load(str(tmp_path / "changed"), NETWORK, tree)
  assert f"changed has {sentence}" in str(caught.value)
