"""Networks as people write them: what the trace counts, and what it refuses in one sentence."""

import logging

from flax import linen as nn
import jax.numpy as jnp
import pytest

from metamix_jax.errors import UserError
from metamix_jax.models import create_network
from metamix_jax.nn.layers import QuantConv, QuantDense, QuantLayer
from metamix_jax.nn.scheme import Placement, QuantizationScheme
from metamix_jax.nn.tracing import check_evaluation, check_training, trace_layers, trace_network
from metamix_jax.training import context
from metamix_jax.training.steps import AXIS
from tests.helpers.configs import digits_config

SCHEME = QuantizationScheme((3, 4, 8), 4, 8, Placement(AXIS))
SHAPE = (8, 8, 4)


class Net(nn.Module):
  """The body that a test gives, then an average and a classifier."""

  body: object
  num_classes: int = 5
  scheme: QuantizationScheme = SCHEME

  @nn.compact
  def __call__(self, images, *, train):
    x = self.body(self, images, train)
    return QuantDense(self.scheme.fixed, "signed", self.num_classes, name="classifier")(jnp.mean(x, axis=(1, 2)))


class TapConv(QuantLayer):
  """A convolution over the columns alone, with `taps` taps."""

  taps: int = 5

  @nn.compact
  def __call__(self, x):
    kernel = self.param("kernel", nn.initializers.ones, (self.taps, x.shape[-1], 8))
    return nn.Conv(8, (1, self.taps)).apply(
        {"params": {"kernel": self.quantize_kernel(kernel)[None], "bias": jnp.zeros(8)}}, self.quantize_input(x))


class CountedTapConv(TapConv):

  def macs(self, input_shape, output_shape):
    return self.taps * input_shape[-1] * output_shape[1] * output_shape[2] * output_shape[3]


class Block(nn.Module):

  @nn.compact
  def __call__(self, x, _=None):
    return QuantConv(SCHEME, "signed", x.shape[-1], 3, name="conv")(x), None


class PlainBlock(nn.Module):

  @nn.compact
  def __call__(self, x):
    return Block(name="block")(x)[0]


class NoKernel(QuantLayer):

  @nn.compact
  def __call__(self, x):
    weight = self.param("weight", nn.initializers.ones, (x.shape[-1], 3))
    return self.quantize_input(x) @ self.quantize_kernel(weight)

  def macs(self, input_shape, output_shape):
    return 1


class FloatInput(QuantLayer):

  @nn.compact
  def __call__(self, x):
    return x @ self.quantize_kernel(self.param("kernel", nn.initializers.ones, (x.shape[-1], 3)))

  def macs(self, input_shape, output_shape):
    return 1


def shared(module, x, train):
  layer = QuantConv(SCHEME, "signed", 4, 3, name="conv")
  return layer(layer(x))


def shared_norm(module, x, train):
  norm = SCHEME.batch_norm(0.9, 1e-5, "norm")
  return norm(norm(x, train=train), train=train)


def scanned(module, x, train):
  blocks = nn.scan(
      Block, variable_axes={"params": 0, "calibration": 0, "precision": 0, "step_sizes": 0},
      split_rngs={"params": True}, length=3)
  return blocks(name="blocks")(x, None)[0]


def mapped(module, x, train):
  blocks = nn.vmap(Block, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=0)
  return blocks(name="blocks")(x[None])[0][0]


def noisy(module, x, train):
  return x + nn.Dropout(0.5, rng_collection="noise", deterministic=not train)(x)


def always_noisy(module, x, train):
  return nn.Dropout(0.5, deterministic=False)(x)


def counter(module, x, train):
  module.variable("counters", "steps", jnp.zeros, ())
  return x


@pytest.mark.parametrize("body, sentence", [
    (shared, "layer conv of Net is called 2 times in one pass"),
    (shared_norm, "layer norm of Net is called 2 times in one pass"),
    (scanned, r"layer blocks/conv of Net is called 2 times in one pass \(shared weights, or nn.scan over blocks\)"),
    (mapped, "layer blocks/conv of Net lies in a lifted transformation"),
    (lambda module, x, train: TapConv(SCHEME, "signed", name="taps")(x),
     r"the cost of layer taps is not known: TapConv has no method macs\(input_shape, output_shape\)"),
    (lambda module, x, train: NoKernel(SCHEME, "signed", name="weight")(x),
     "layer weight of Net has no parameter named kernel"),
    (lambda module, x, train: FloatInput(SCHEME, "signed", name="float")(x),
     "layer float of Net calls quantize_input 0 times; allowed is once"),
    (lambda module, x, train: QuantConv(SCHEME, "signed", 4, 2, name="patches")(x),
     r"layer patches: kernel_size is \(2, 2\) and padding is None"),
    (lambda module, x, train: QuantConv(SCHEME, "signed", 4, (3,), name="line")(x),
     r"layer line: kernel_size is \(3,\)"),
    (lambda module, x, train: QuantConv(SCHEME, "signed", 4, 3, feature_group_count=3, name="groups")(x),
     "layer groups: feature_group_count is 3; allowed is what divides its 4 channels and 4 features"),
    (lambda module, x, train: QuantConv(SCHEME, "signed", 4, 3, name="one")(x[0])[None],
     r"layer one: its input has the shape \(8, 8, 4\); allowed is \[N, H, W, C\]"),
    (counter, "network Net keeps variables in the collection 'counters'; allowed are params and batch_stats"),
    (always_noisy, "network Net draws random numbers named 'dropout' in evaluation, where there are none"),
])
def test_refused_in_a_sentence(body, sentence):
  with pytest.raises(UserError, match=sentence) as error:
    trace_layers(Net(body), SHAPE)
  assert str(error.value).endswith(".") and "\n" not in str(error.value)


class Logits(nn.Module):
  """Returns what its test says, of logits."""

  result: object
  num_classes: int = 5

  @nn.compact
  def __call__(self, images, *, train):
    return self.result(QuantDense(SCHEME, "signed", 5)(jnp.mean(images, axis=(1, 2))))


class WithoutTrain(nn.Module):

  @nn.compact
  def __call__(self, images, deterministic=True):
    return QuantDense(SCHEME, "signed", 5)(jnp.mean(images, axis=(1, 2)))


@pytest.mark.parametrize("check", [trace_network, check_evaluation])
@pytest.mark.parametrize("network, sentence", [
    (Logits(lambda logits: (logits, logits)), r"network Logits returns a tuple; it must return logits \[N, 5\]"),
    (Logits(lambda logits: logits[:, :4]), r"network Logits returns an array \[1, 4\] for one image"),
    (Logits(lambda logits: logits[:, None]), r"network Logits returns an array \[1, 1, 5\] for one image"),
    (WithoutTrain(), "network WithoutTrain takes no argument 'train'"),
])
def test_what_a_network_takes_and_returns(check, network, sentence):
  with pytest.raises(UserError, match=sentence):
    check(network, SHAPE)


class InTraining(nn.Module):
  """Logits in evaluation, and in training what its test says of them."""

  result: object
  num_classes: int = 5

  @nn.compact
  def __call__(self, images, *, train):
    logits = QuantDense(SCHEME, "signed", 5)(jnp.mean(images, axis=(1, 2)))
    return self.result(logits) if train else logits


@pytest.mark.parametrize("result, found", [
    (lambda logits: (logits, logits), "a tuple in training"),
    (lambda logits: {"logits": logits}, "a dict in training"),
    (lambda logits: "logits", "a str in training"),
    (lambda logits: logits[:, :4], "an array [2, 4] for two images in training"),
    (lambda logits: logits[:1], "an array [1, 5] for two images in training"),
])
def test_what_a_network_returns_in_training(result, found):
  network = InTraining(result)
  traced = trace_network(network, SHAPE)
  with pytest.raises(UserError) as error:
    check_training(traced, network, SHAPE, AXIS)
  assert str(error.value) == f"network InTraining returns {found}; it must return logits [N, 5]."


@pytest.mark.parametrize("body", [noisy, lambda module, x, train: nn.Dropout(0.5, deterministic=not train)(x)])
def test_random_numbers_of_any_name_are_trained_with(body):
  network = Net(body)
  check_training(trace_network(network, SHAPE), network, SHAPE, AXIS)


def test_batch_norm_of_another_kind_is_named():
  network = Net(lambda module, x, train: nn.BatchNorm(use_running_average=not train, name="norm")(x))
  with pytest.raises(UserError, match="layer norm of Net keeps running statistics that cannot be re-estimated"):
    check_training(trace_network(network, SHAPE), network, SHAPE, AXIS)
  network = Net(lambda module, x, train: SCHEME.batch_norm(0.9, 1e-5, "norm")(x, train=train))
  check_training(trace_network(network, SHAPE), network, SHAPE, AXIS)


@pytest.mark.parametrize("body, macs, kind", [
    # 8 x 8 positions, 4 channels to 6 features, 9 taps; then strides, dilation, padding and groups by hand.
    (lambda x: QuantConv(SCHEME, "signed", 6, 3, name="layer")(x=x), 8 * 8 * 6 * 4 * 9, "conv"),
    (lambda x: QuantConv(SCHEME, "signed", 6, [3, 5], strides=(2, 1), name="layer")(x), 4 * 8 * 6 * 4 * 15, "conv"),
    (lambda x: QuantConv(SCHEME, "signed", 6, 3, kernel_dilation=2, name="layer")(x), 8 * 8 * 6 * 4 * 9, "conv"),
    (lambda x: QuantConv(SCHEME, "signed", 6, 4, 4, "VALID", name="layer")(x), 2 * 2 * 6 * 4 * 16, "conv"),
    (lambda x: QuantConv(SCHEME, "signed", 6, 2, padding="SAME", name="layer")(x), 8 * 8 * 6 * 4 * 4, "conv"),
    (lambda x: QuantConv(SCHEME, "signed", 6, 3, padding=((0, 0), (2, 1)), name="layer")(x), 6 * 9 * 6 * 4 * 9, "conv"),
    (lambda x: QuantConv(SCHEME, "signed", 6, 3, feature_group_count=2, name="layer")(x), 8 * 8 * 6 * 2 * 9, "conv"),
    (lambda x: QuantConv(SCHEME, "signed", 8, 3, feature_group_count=4, name="layer")(x), 8 * 8 * 8 * 9, "depthwise"),
    (lambda x: QuantDense(SCHEME, "signed", 6, name="layer")(x), 8 * 8 * 6 * 4, "dense"),
    # All positions of an image in the place of the batch count just the same.
    (lambda x: QuantDense(SCHEME, "signed", 6, name="layer")(x.reshape(-1, 4)).reshape(-1, 8, 8, 6), 8 * 8 * 6 * 4,
     "dense"),
    (lambda x: CountedTapConv(SCHEME, "signed", name="layer")(x), 8 * 8 * 8 * 4 * 5, "other"),
    (lambda x: nn.remat(PlainBlock)(name="layer")(x), 8 * 8 * 4 * 4 * 9, "conv"),
])
def test_macs_by_hand(body, macs, kind):
  layer, classifier = trace_layers(Net(lambda module, x, train: body(x)), SHAPE)
  assert layer.name.partition("/")[0] == "layer" and classifier.name == "classifier"
  assert (layer.macs, layer.input_elements, layer.kind) == (macs, 8 * 8 * 4, kind)


def test_a_patch_embedding_has_its_patches():
  """16 x 16 patches of 224 pixels are 14 x 14."""
  network = Net(lambda module, x, train: QuantConv(SCHEME, "signed", 6, 16, 16, "VALID", name="patches")(x))
  assert trace_layers(network, (224, 224, 3))[0].macs == 14 * 14 * 6 * 3 * 16 * 16


def plain(module, x, train):
  x = nn.Conv(6, (3, 3), name="plain")(x) + module.param("position", nn.initializers.zeros, (8, 8, 6))
  return QuantConv(SCHEME, "signed", 6, 3, use_bias=True, name="conv")(nn.PReLU(name="prelu")(x))


def test_what_stays_in_full_precision_is_named():
  assert trace_network(Net(plain), SHAPE).uncounted == ("plain/kernel", "position")
  assert trace_network(create_network("resnet18", 5, SCHEME, {}), (32, 32, 3)).uncounted == ()


def build(monkeypatch, body):
  monkeypatch.setattr(context, "create_network", lambda *args: Net(body, num_classes=5))
  return context.build_networks(digits_config(), num_classes=5, channels=1)


def test_the_log_names_what_is_not_counted(monkeypatch, caplog):
  with caplog.at_level(logging.WARNING, "metamix_jax"):
    build(monkeypatch, lambda module, x, train: plain(module, x[:, :8, :8], train))
  assert "In full precision, and not counted in GBOPs: plain/kernel, position" in caplog.text


def test_nothing_to_search_is_refused(monkeypatch):
  with pytest.raises(UserError, match="config.network.name is 'mobilenet_v2', which has no layer to search"):
    build(monkeypatch, lambda module, x, train: x)
