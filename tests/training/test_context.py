"""A value that a config must not have: one sentence, before anything is compiled."""

import jax
import pytest

from metamix_jax.errors import UserError
from metamix_jax.training.context import prepare
from tests.helpers.configs import tiny_config


@pytest.mark.parametrize("field, value, sentence", [
    ("quantization.candidate_bits", (4, 3, 8), r"candidate_bits is \(4, 3, 8\); it must be at least two different"),
    ("quantization.candidate_bits", (3, 3, 8), "ascending order"),
    ("quantization.candidate_bits", (1, 4, 8), "integers from 2 to 8"),
    ("quantization.candidate_bits", (3, 4, 9), "integers from 2 to 8"),
    ("arch.target_gbops", 5.0, r"target_gbops is 5; this network reaches 0\.\d+ to 0\.\d+ GBOPs"),
    ("arch.target_gbops", (0.0008, 5.0), r"target_gbops is 5; this network reaches"),
    ("arch.target_gbops", (0.0008, 0.0008), r"target_gbops is \(0.0008, 0.0008\); it must be a number above 0, or a"),
    ("arch.target_gbops", (0.0008, 0.00080000001), "differ in their first six digits"),
    ("arch.target_gbops", (0.0009, 0.0008), "in ascending order"),
    ("arch.target_gbops", (), "a number above 0, or a tuple"),
    ("arch.target_gbops", "0.1", "a number above 0, or a tuple"),
    ("arch.train_targets", (0.0009,), "train_targets names 0.0009; allowed are the .*target_gbops, 0.0008"),
    ("arch.train_targets", 0.0008, "a tuple of targets from arch.target_gbops, or None for all"),
    ("batch_size", 1_000_000, "batch_size is 1000000; the training split has only 1347 images"),
    ("data.name", "no_such_set", "no_such_set"),
    ("network.name", "no_such_net", "allowed are mobilenet_v2"),
    ("bits_from", "/nowhere/bits.json", "bits_from=/nowhere/bits.json cannot be read"),
    ("bit_selection.meta_only_epochs", 2, "must be below"),
])
def test_bad_value_is_one_sentence_before_compilation(field, value, sentence, data_dir):
  config = tiny_config(data_dir)
  with config.ignore_type():
    config.update_from_flattened_dict({field: value})
  with pytest.raises(UserError, match=sentence) as caught:
    prepare(config)
  assert "\n" not in str(caught.value)


def test_batch_size_that_devices_do_not_divide(data_dir):
  config = tiny_config(data_dir)
  devices = jax.local_device_count()
  assert devices > 1  # conftest.py fakes them.
  config.batch_size = devices + 1
  with pytest.raises(UserError, match=f"which {devices} devices do not divide; allowed are multiples"):
    prepare(config)
