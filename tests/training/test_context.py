"""A value that a config must not have: one sentence, before anything is compiled."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import pytest

from metamix_jax.errors import UserError
from metamix_jax.models import pretrained
from metamix_jax.nn.layers import QuantConv, QuantDense
from metamix_jax.nn.scheme import LSQ, QuantizationScheme
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


def test_a_quantizer_that_layers_cannot_use(data_dir):
  with pytest.raises(UserError, match=r"the quantizer's fake_quantize returns float32 \[7\] for float32 \[6, 7\]; it"):
    prepare(tiny_config(data_dir), quantizer=LSQ._replace(fake_quantize=lambda x, *others: x[0]))


def test_the_bits_of_a_kernel_that_are_none_of_its_candidates(data_dir):
  config = with_network(tiny_config(data_dir), "mobilenet_v3_small", penultimate_weight_bits=8, stem_stride=1)
  config.quantization.candidate_weight_bits = (2, 4)
  with pytest.raises(UserError, match="layer penultimate of MobileNetV3 has the weight_bits 8; allowed is one of its "):
    prepare(config)


class Headed(nn.Module):
  """A quantised convolution and dense layer, and perhaps a layer of Flax's own for the logits."""

  num_classes: int
  scheme: QuantizationScheme
  features: int
  head: bool

  @nn.compact
  def __call__(self, images, *, train):
    x = QuantConv(self.scheme, "signed", 8, 3, name="conv")(images)
    x = QuantDense(self.scheme, "signed", self.features, name="dense")(jnp.mean(x, axis=(1, 2)))
    return nn.Dense(self.num_classes, name="head")(x) if self.head else x


@pytest.mark.parametrize("features, head, sentence", [
    (16, True, "and dense, the last quantised layer of Headed, has 16 outputs; allowed is a network whose last "
     "quantised layer is its classifier, with 10."),
    (10, True, "and head/kernel of Headed has as many outputs as dense, 10; allowed is a network in which only a "
     "quantised layer can be the classifier."),
    (10, False, None),
])
def test_a_new_classifier_is_the_layer_that_returns_the_logits(features, head, sentence, data_dir, tmp_path):
  """Refused before the file is read; where the layer is the classifier, the file of 7 classes is enough."""
  config = with_network(tiny_config(data_dir), "tests.training.test_context:Headed", features=features, head=head)
  config.pretraining.new_classifier, config.pretraining.weights = True, str(tmp_path / "w")
  config.arch.target_gbops = 0.0001
  seven = Headed(7, QuantizationScheme((8,), 8, 8), 7, False).init(
      jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)
  pretrained.save(config.pretraining.weights, {"weights": seven["params"], "batch_stats": {}})
  if sentence is None:
    prepare(config)
    return
  with pytest.raises(UserError) as error:
    prepare(config)
  assert str(error.value) == f"config.pretraining.new_classifier is True, {sentence}"


def with_network(config, name, **options):
  """Returns the config with another network."""
  config.network.name = name
  with config.network.unlocked():
    config.network.options = options
  return config
