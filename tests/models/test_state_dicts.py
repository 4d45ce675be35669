"""State dicts as they come: what is read, what is refused and how it is said."""

import argparse
import collections
import logging
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from metamix_jax.errors import UserError
from metamix_jax.models import pretrained
from metamix_jax.models.state_dicts import read_state_dict, unwrap
from tests.helpers.golden_weights import golden_state_dict

PLAIN = {"conv1.weight": np.ones((4, 3, 3, 3), np.float32), "bn1.running_var": np.arange(4, dtype=np.float32)}


def prefixed(prefix):
  return {prefix + name: values for name, values in PLAIN.items()}


@pytest.mark.parametrize("content", [
    PLAIN, collections.OrderedDict(PLAIN), {"state_dict": PLAIN, "epoch": 90, "arch": "resnet18"},
    {"model": PLAIN, "optimizer": {"state": {}}}, {"model": {"state_dict": prefixed("module.")}},
    {"model": {"conv1.weight": 0}, "model_ema": prefixed("module.") | {"n_averaged": np.int64(7)}},
    {"state_dict": {"conv1.weight": 0}, "state_dict_ema": PLAIN}, {"model_state_dict": PLAIN},
    prefixed("module."), prefixed("_orig_mod."), prefixed("module._orig_mod."), {"state_dict": prefixed("model.")},
    prefixed("model.module.")])
def test_nests_and_prefixes_are_taken_off(content):
  found = unwrap(content, "w.pth")
  assert list(found) == list(PLAIN) and all(found[name] is PLAIN[name] for name in PLAIN)


def test_the_log_says_which_of_several_state_dicts_is_read(caplog):
  caplog.set_level(logging.INFO, logger="metamix_jax")
  unwrap({"model": PLAIN, "model_ema": PLAIN, "epoch": 3}, "w.pth")
  assert caplog.messages == ["w.pth holds model, model_ema, epoch; model_ema is read"]


def test_a_prefix_of_some_names_stays():
  content = prefixed("module.") | {"criterion.weight": np.ones(3, np.float32)}
  assert unwrap(content, "w.pth") == content


@pytest.mark.parametrize("content, kind", [([PLAIN], "list"), (np.ones(3), "ndarray"), (None, "NoneType"),
                                           ({0: np.ones(3)}, "dict")])
def test_what_is_not_a_state_dict(content, kind):
  with pytest.raises(UserError, match=rf"^w.pth holds a {kind} and not a state dict; save the state dict alone, with "
                     r"torch.save\(model.state_dict\(\), FILE\).$"):
    unwrap(content, "w.pth")


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32, np.float64])
def test_every_floating_point_type_becomes_float32(dtype, tmp_path):
  values = np.array([0.5, -3, 1.25, 0], dtype)  # Exact in each of them.
  save_file({"a.weight": values, "a.num_batches_tracked": np.array(3)}, tmp_path / "w.safetensors")
  read = read_state_dict(tmp_path / "w.safetensors")
  assert list(read) == ["a.weight"] and read["a.weight"].dtype == np.float32
  np.testing.assert_array_equal(read["a.weight"], [0.5, -3, 1.25, 0])


@pytest.mark.parametrize("name, values, sentence", [
    ("a.weight", np.array([1, np.nan, np.inf], np.float32), "with 2 of 3 values that are not finite in float32; "),
    ("a.weight", np.array([1, 1e39]), "with 1 of 2 values that are not finite in float32; "),
    ("a.running_var", np.array([1, -0.5], np.float32), "with variances as low as -0.5, and none may be negative; "),
    ("a.weight", np.array([1, 2], np.int8), "of type int8; weights are floating-point numbers."),
    ("a.weight", np.array([1, 2], bool), "of type bool; weights are floating-point numbers."),
])
def test_an_entry_that_cannot_be_weights_is_named(name, values, sentence, tmp_path):
  save_file({name: values}, tmp_path / "w.safetensors")
  with pytest.raises(UserError) as caught:
    read_state_dict(tmp_path / "w.safetensors")
  assert str(caught.value).startswith(f"{tmp_path}/w.safetensors has {name!r}")
  assert sentence in str(caught.value)


def test_a_variance_of_zero_and_a_negative_mean_are_fine(tmp_path):
  save_file({"a.running_var": np.zeros(2, np.float32), "a.running_mean": np.full(2, -1, np.float32)},
            tmp_path / "w.safetensors")
  assert read_state_dict(tmp_path / "w.safetensors")["a.running_mean"].tolist() == [-1, -1]


def test_pth_without_torch_says_what_to_install(tmp_path, monkeypatch):
  (tmp_path / "w.pth").write_bytes(b"")
  monkeypatch.setitem(sys.modules, "torch", None)
  with pytest.raises(UserError, match=r"w.pth cannot be read without torch: pip install 'metamix_jax\[torch\]'"):
    read_state_dict(tmp_path / "w.pth")


@pytest.mark.torch
def test_pth_equals_safetensors(tmp_path):
  import torch  # Not a dependency of the tests.
  state_dict = golden_state_dict("mobilenet_v3_small", 0)
  save_file(state_dict, tmp_path / "w.safetensors")
  expected = read_state_dict(tmp_path / "w.safetensors")
  tensors = {name: torch.from_numpy(np.array(values)) for name, values in state_dict.items()}
  parameters = {name: torch.nn.Parameter(tensor) for name, tensor in tensors.items()}
  for number, content in enumerate((
      tensors, parameters, {"model": {f"module.{name}": tensor for name, tensor in tensors.items()}, "epoch": 3,
                            "args": argparse.Namespace(lr=0.1), "optimizer": {"state": {}, "param_groups": [{}]}})):
    path = tmp_path / f"{number}.pth.tar"
    torch.save(content, path)
    read = read_state_dict(path)
    assert read.keys() == expected.keys()
    for name, values in expected.items():
      np.testing.assert_array_equal(read[name], values)
  assert pretrained.convert_file(path, "mobilenet_v3_small")["weights"]["classifier"]["bias"].shape == (1000,)


@pytest.mark.torch
def test_tensors_that_are_read_or_named(tmp_path):
  import torch  # Not a dependency of the tests.
  path = tmp_path / "w.pth"
  torch.save({"a": torch.tensor([0.5, 3], dtype=torch.bfloat16, requires_grad=True)}, path)
  assert read_state_dict(path)["a"].tolist() == [0.5, 3]
  for value, sentence in (
      (3, "has 'a', which is a int and not a tensor; save the state dict alone, with torch.save("),
      ("word", "has 'a', which is a str and not a tensor; "), (None, "has 'a', which is a NoneType and not a tensor; "),
      ([torch.ones(2)], "has 'a', which is a list and not a tensor; "),
      (torch.ones(2, dtype=torch.int64), "has 'a' of type torch.int64; weights are floating-point numbers."),
      (torch.ones(2, dtype=torch.complex64), "has 'a' of type torch.complex64; "),
      (torch.eye(2).to_sparse(), "has 'a', which is not a plain tensor: "),
      (torch.ones(2, device="meta"), "has 'a', which is not a plain tensor: "),
      (torch.tensor([1, float("nan")]), "has 'a' with 1 of 2 values that are not finite in float32; ")):
    torch.save({"a": value, "b": torch.ones(2)}, path)
    with pytest.raises(UserError) as caught:
      read_state_dict(path)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
  for content, sentence in (
      (torch.nn.Linear(2, 2), "w.pth holds a torch.nn.modules.linear.Linear, whose reading could run code; if "),
      (test_pth_equals_safetensors, "whose reading could run code; if you trust the file, load it with torch.load("),
      (torch.ones(2), "w.pth holds a Tensor and not a state dict; "), ([1], "w.pth holds a list and not a state dict")):
    torch.save(content, path)
    with pytest.raises(UserError) as caught:
      read_state_dict(path)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
  for damaged in (b"", b"PK", path.read_bytes()[:100]):
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="w.pth cannot be read as a state dict: ") as caught:
      read_state_dict(path)
    assert "\n" not in str(caught.value)
