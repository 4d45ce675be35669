"""MobileNetV3 (Howard et al., ICCV 2019), layer by layer as torchvision defines it, of quantised layers."""

import dataclasses
import functools

from flax import linen as nn
from jax import Array
import jax.numpy as jnp

from metamix_jax.models.mobilenet_v2 import round_channels
from metamix_jax.nn.activations import hard_swish
from metamix_jax.nn.layers import QuantConv, QuantDense
from metamix_jax.nn.scheme import QuantizationScheme

# Rows of Tables 1 and 2: kernel size, expanded channels, output channels, squeeze-and-excitation, activation
# ("relu" or "hard_swish"), stride.
Block = tuple[int, int, int, bool, str, int]
LARGE_BLOCKS: tuple[Block, ...] = (
    (3, 16, 16, False, "relu", 1),
    (3, 64, 24, False, "relu", 2),
    (3, 72, 24, False, "relu", 1),
    (5, 72, 40, True, "relu", 2),
    (5, 120, 40, True, "relu", 1),
    (5, 120, 40, True, "relu", 1),
    (3, 240, 80, False, "hard_swish", 2),
    (3, 200, 80, False, "hard_swish", 1),
    (3, 184, 80, False, "hard_swish", 1),
    (3, 184, 80, False, "hard_swish", 1),
    (3, 480, 112, True, "hard_swish", 1),
    (3, 672, 112, True, "hard_swish", 1),
    (5, 672, 160, True, "hard_swish", 2),
    (5, 960, 160, True, "hard_swish", 1),
    (5, 960, 160, True, "hard_swish", 1),
)
LARGE_LAST_CHANNELS = 1280
SMALL_BLOCKS: tuple[Block, ...] = (
    (3, 16, 16, True, "relu", 2),
    (3, 72, 24, False, "relu", 2),
    (3, 88, 24, False, "relu", 1),
    (5, 96, 40, True, "hard_swish", 2),
    (5, 240, 40, True, "hard_swish", 1),
    (5, 240, 40, True, "hard_swish", 1),
    (5, 120, 48, True, "hard_swish", 1),
    (5, 144, 48, True, "hard_swish", 1),
    (5, 288, 96, True, "hard_swish", 2),
    (5, 576, 96, True, "hard_swish", 1),
    (5, 576, 96, True, "hard_swish", 1),
)
SMALL_LAST_CHANNELS = 1024
# torchvision's, for this network only.
BATCH_NORM_MOMENTUM, BATCH_NORM_EPSILON = 0.99, 1e-3
# The squeeze has a quarter of the channels, the last convolution six times the last block's.
SQUEEZE_FACTOR, HEAD_FACTOR = 4, 6

# Each activation and the range of what it leaves (M3). Averages of it, and products with a hard sigmoid (0 to 1),
# stay within the same range: h-swish never falls below -3/8, and neither does a share of it.
ACTIVATIONS = {"relu": (nn.relu, "unsigned"), "hard_swish": (hard_swish, "hard_swish")}


class SqueezeExcite(nn.Module):
  """Scales each channel by hard_sigmoid(excite(relu(squeeze(average over H and W)))).

  Attributes:
    input_range: of x (M3); its average has the same.
    scheme: how the two 1x1 convolutions are quantised.
  """

  input_range: str
  scheme: QuantizationScheme

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[N, H, W, C] -> [N, H, W, C]."""
    channels = x.shape[-1]
    scale = jnp.mean(x, axis=(1, 2), keepdims=True)
    scale = QuantConv(
        self.scheme, self.input_range, round_channels(channels // SQUEEZE_FACTOR), (1, 1), use_bias=True,
        name="squeeze")(scale)
    scale = QuantConv(self.scheme, "unsigned", channels, (1, 1), use_bias=True, name="excite")(nn.relu(scale))
    return x * nn.hard_sigmoid(scale)


class InvertedResidual(nn.Module):
  """Expand 1x1, depthwise, squeeze and excite, project 1x1 without activation; a shortcut where shapes allow.

  Attributes:
    block: a row of the tables above; the expansion is left out where it would not widen the input.
    input_range: of the block's input: "signed" where it is a linear bottleneck (M3).
    scheme: how the layers are quantised.
  """

  block: Block
  input_range: str
  scheme: QuantizationScheme

  @nn.compact
  def __call__(self, x: Array, *, train: bool) -> Array:
    """[N, H, W, C] -> [N, ceil(H / stride), ceil(W / stride), output channels]."""
    norm = functools.partial(self.scheme.batch_norm, BATCH_NORM_MOMENTUM, BATCH_NORM_EPSILON)
    kernel, expanded, features, squeeze_excite, activation_name, stride = self.block
    activation, activation_range = ACTIVATIONS[activation_name]
    y, input_range = x, self.input_range
    if expanded != x.shape[-1]:
      y = QuantConv(self.scheme, input_range, expanded, (1, 1), name="expand")(y)
      y = activation(norm("expand_norm")(y, train=train))
      input_range = activation_range
    y = QuantConv(
        self.scheme, input_range, expanded, (kernel, kernel), strides=stride, feature_group_count=expanded,
        name="depthwise")(y)
    y = activation(norm("depthwise_norm")(y, train=train))
    if squeeze_excite:
      y = SqueezeExcite(activation_range, self.scheme, name="squeeze_excite")(y)
    y = QuantConv(self.scheme, activation_range, features, (1, 1), name="project")(y)
    y = norm("project_norm")(y, train=train)
    return x + y if stride == 1 and x.shape[-1] == features else y


class MobileNetV3(nn.Module):
  """MobileNetV3, Large by default.

  Attributes:
    num_classes: outputs.
    scheme: quantisation of the searched layers; first convolution and classifier use `scheme.fixed`.
    blocks: rows of the tables above.
    last_channels: of the dense layer before the classifier.
    stem_channels: of the first convolution.
    stem_stride: 2 as published; 1 for small images.
    dropout_rate: before the classifier; 0.2 in torchvision.
    penultimate_weight_bits: weight bits of the dense layer before the classifier, in cost and training alike; None:
      the scheme's. (The release counts 8 in the search and trains 4 [C].)
  """

  num_classes: int
  scheme: QuantizationScheme
  blocks: tuple[Block, ...] = LARGE_BLOCKS
  last_channels: int = LARGE_LAST_CHANNELS
  stem_channels: int = 16
  stem_stride: int = 2
  dropout_rate: float = 0.0
  penultimate_weight_bits: int | None = None

  @nn.compact
  def __call__(self, images: Array, *, train: bool) -> Array:
    """Normalised images [N, H, W, C] -> logits [N, num_classes]."""
    norm = functools.partial(self.scheme.batch_norm, BATCH_NORM_MOMENTUM, BATCH_NORM_EPSILON)
    x = QuantConv(
        self.scheme.fixed, "signed", self.stem_channels, (3, 3), strides=self.stem_stride, name="stem")(images)
    x = hard_swish(norm("stem_norm")(x, train=train))
    for index, block in enumerate(self.blocks):
      # The first block reads the stem's h-swish, every later one a linear bottleneck.
      input_range = "hard_swish" if index == 0 else "signed"
      x = InvertedResidual(tuple(block), input_range, self.scheme, name=f"block_{index:02d}")(x, train=train)
    x = QuantConv(self.scheme, "signed", HEAD_FACTOR * x.shape[-1], (1, 1), name="head")(x)
    x = hard_swish(norm("head_norm")(x, train=train))
    x = jnp.mean(x, axis=(1, 2))
    weight_bits = self.scheme.weight_bits if self.penultimate_weight_bits is None else self.penultimate_weight_bits
    x = QuantDense(
        dataclasses.replace(self.scheme, weight_bits=weight_bits), "hard_swish", self.last_channels,
        name="penultimate")(x)
    x = nn.Dropout(self.dropout_rate, deterministic=not train)(hard_swish(x))
    # Dropout scales what it keeps by 1 / (1 - rate): a hair below -3/8 is clipped.
    return QuantDense(self.scheme.fixed, "hard_swish", self.num_classes, name="classifier")(x)
