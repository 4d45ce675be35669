"""A network of the user's own through all phases, with nothing registered anywhere."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import pytest

from metamix_jax import experiment
from metamix_jax.nn.batch_norm import BatchNorm, check_batch_norm
from metamix_jax.nn.scheme import Placement, QuantizationScheme
from metamix_jax.training import context
from metamix_jax.training.steps import AXIS
from tests.helpers.configs import digits_config, tiny_config
from tests.helpers.own_network import PlainNetwork


class OtherBatchNorm(nn.Module):

  @nn.compact
  def __call__(self, images, *, train):
    return nn.BatchNorm(use_running_average=not train, name="norm")(images)


def test_own_network_goes_through_all_phases(data_dir, tmp_path):
  config = tiny_config(data_dir)
  config.network.name = "tests.helpers.own_network:PlainNetwork"
  with config.network.unlocked():
    config.network.options = {"features": (8, 8, 16)}
  # MACs on 8 x 8 images: 8*8*8*9, 4*4*8*8*9, 2*2*8*8*9, 1*1*16*8*9, 16*10.
  config.arch.target_gbops = (8 * 8 * (4608 + 160) + 4 * 4 * (9216 + 2304 + 1152)) / 1e9
  summary = experiment.run(config, tmp_path)
  target, = summary["targets"]
  assert set(target["bits"]) == {"conv_0", "conv_1", "conv_2"}
  assert {result["bits"]: result["gbops"] for result in summary["uniform"]}[4] == pytest.approx(config.arch.target_gbops, rel=1e-12)
  assert target["gbops"] <= config.arch.target_gbops
  assert 0 < target["final_top1"] <= 100


def test_batch_norm_of_another_kind_is_named():
  with pytest.raises(ValueError, match="layer norm of config.network.name keeps running statistics"):
    check_batch_norm(OtherBatchNorm(), (8, 8, 1), AXIS)
  check_batch_norm(PlainNetwork(4, QuantizationScheme((3, 4, 8), 4, 8, Placement(AXIS))), (8, 8, 1), AXIS)


# Batch norms: one for each width of the own network, one for each of ResNet-18's 20 convolutions, the others' stem and
# head, and what the blocks of MobileNetV2 (50) and MobileNetV3 (44, 32) have.
@pytest.mark.parametrize("name, count", [
    ("tests.own_network:PlainNetwork", 2), ("resnet18", 20), ("mobilenet_v2", 52), ("mobilenet_v3_large", 46),
    ("mobilenet_v3_small", 34)])
@pytest.mark.parametrize("synchronized", [True, False])
def test_every_batch_norm_obeys_the_config(name, count, synchronized):
  config = digits_config()
  config.network.name, config.network.synchronized_batch_norm = name, synchronized
  with config.network.unlocked():
    config.network.options = {}
  network, _ = context.build_networks(config, num_classes=4, channels=1)
  found = []

  def record(call, args, kwargs, called):
    if isinstance(called.module, BatchNorm):
      found.append((called.module.axis_name, called.module.synchronized))
    return call(*args, **kwargs)

  with nn.intercept_methods(record):
    images = jax.ShapeDtypeStruct((1, 32, 32, 1), jnp.float32)
    jax.eval_shape(lambda x: network.module.init(jax.random.key(0), x, train=False), images)
  assert found == [(AXIS, synchronized)] * count
