"""MobileNetV2 (Sandler et al., CVPR 2018), layer by layer as torchvision defines it, of quantised layers."""

import functools

from flax import linen as nn
from jax import Array
import jax.numpy as jnp

from metamix_jax.nn.layers import QuantConv, QuantDense
from metamix_jax.nn.scheme import QuantizationScheme

# Rows of Table 2: expansion factor t, output channels c, repeats n, stride s of the first repeat.
IMAGENET_BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
                   (6, 320, 1, 1))
IMAGENET_STEM_CHANNELS = 32
IMAGENET_LAST_CHANNELS = 1280
BATCH_NORM_MOMENTUM, BATCH_NORM_EPSILON = 0.9, 1e-5


def round_channels(channels: float, divisor: int = 8) -> int:
  """Channels rounded to a multiple of `divisor`, never more than 10 % below (torchvision's rule)."""
  rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
  return rounded + divisor if rounded < 0.9 * channels else rounded


class InvertedResidual(nn.Module):
  """Expand 1x1, depthwise 3x3, project 1x1 without activation; a shortcut where shapes allow.

  Attributes:
    expansion: t; the expansion is left out for t = 1.
    features: output channels of this block.
    stride: of the depthwise convolution.
    input_range: of the block's input: "signed" where it is a linear bottleneck (M3).
    scheme: how the layers are quantised.
  """

  expansion: int
  features: int
  stride: int
  input_range: str
  scheme: QuantizationScheme

  @nn.compact
  def __call__(self, x: Array, *, train: bool) -> Array:
    """[N, H, W, C] -> [N, ceil(H / stride), ceil(W / stride), features]."""
    norm = functools.partial(self.scheme.batch_norm, BATCH_NORM_MOMENTUM, BATCH_NORM_EPSILON)
    y, hidden, input_range = x, x.shape[-1] * self.expansion, self.input_range
    if self.expansion != 1:
      y = QuantConv(self.scheme, input_range, hidden, (1, 1), name="expand")(y)
      y = nn.relu6(norm("expand_norm")(y, train=train))
      input_range = "unsigned"
    y = QuantConv(
        self.scheme, input_range, hidden, (3, 3), strides=self.stride, feature_group_count=hidden, name="depthwise")(y)
    y = nn.relu6(norm("depthwise_norm")(y, train=train))
    y = QuantConv(self.scheme, "unsigned", self.features, (1, 1), name="project")(y)
    y = norm("project_norm")(y, train=train)
    return x + y if self.stride == 1 and x.shape[-1] == self.features else y


class MobileNetV2(nn.Module):
  """MobileNetV2 of any width.

  Attributes:
    num_classes: outputs.
    scheme: quantisation of the searched layers; first convolution and classifier use `scheme.fixed`.
    width_multiplier: scales all channels; the last convolution never gets narrower than its setting.
    stem_stride: 2 as published; 1 for small images.
    stem_channels: before scaling.
    blocks: rows (t, c, n, s).
    last_channels: of the last convolution, before scaling.
    dropout_rate: before the classifier.
  """

  num_classes: int
  scheme: QuantizationScheme
  width_multiplier: float = 1.0
  stem_stride: int = 2
  stem_channels: int = IMAGENET_STEM_CHANNELS
  blocks: tuple[tuple[int, int, int, int], ...] = IMAGENET_BLOCKS
  last_channels: int = IMAGENET_LAST_CHANNELS
  dropout_rate: float = 0.0

  @nn.compact
  def __call__(self, images: Array, *, train: bool) -> Array:
    """Normalised images [N, H, W, C] -> logits [N, num_classes]."""
    norm = functools.partial(self.scheme.batch_norm, BATCH_NORM_MOMENTUM, BATCH_NORM_EPSILON)
    width = self.width_multiplier
    x = QuantConv(
        self.scheme.fixed, "signed", round_channels(self.stem_channels * width), (3, 3),
        strides=self.stem_stride, name="stem")(images)
    x = nn.relu6(norm("stem_norm")(x, train=train))
    index = 0
    for expansion, channels, repeats, stride in self.blocks:
      for repeat in range(repeats):
        # The first block reads the stem's ReLU6, every later one a linear bottleneck.
        x = InvertedResidual(
            expansion, round_channels(channels * width), stride if repeat == 0 else 1,
            "unsigned" if index == 0 else "signed", self.scheme, name=f"block_{index:02d}")(x, train=train)
        index += 1
    last = round_channels(self.last_channels * max(1.0, width))
    x = QuantConv(self.scheme, "signed", last, (1, 1), name="head")(x)
    x = nn.relu6(norm("head_norm")(x, train=train))
    x = jnp.mean(x, axis=(1, 2))
    x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
    return QuantDense(self.scheme.fixed, "unsigned", self.num_classes, name="classifier")(x)
