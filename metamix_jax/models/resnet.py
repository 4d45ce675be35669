"""ResNet (He et al., CVPR 2016), layer by layer as torchvision defines it, of quantised layers."""

from flax import linen as nn
from jax import Array
import jax.numpy as jnp

from metamix_jax.nn.layers import QuantConv, QuantDense
from metamix_jax.nn.scheme import QuantizationScheme

# Blocks in each of the four stages (Table 1).
RESNET18_STAGES, RESNET50_STAGES, RESNET101_STAGES = (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 23, 3)
BATCH_NORM_MOMENTUM, BATCH_NORM_EPSILON = 0.9, 1e-5
BOTTLENECK_EXPANSION = 4


class ResidualBlock(nn.Module):
  """Convolutions with batch norm, ReLU between them, plus a shortcut, then ReLU.

  Attributes:
    convolutions: rows (output channels, kernel size, stride).
    scheme: how the layers are quantised.
  """

  convolutions: tuple[tuple[int, int, int], ...]
  scheme: QuantizationScheme

  @nn.compact
  def __call__(self, x: Array, *, train: bool) -> Array:
    """[N, H, W, C] -> [N, ceil(H / stride), ceil(W / stride), output channels]; every layer reads a ReLU (M3)."""
    def conv_norm(y, features, kernel, stride, conv_name, norm_name):
      y = QuantConv(self.scheme, "unsigned", features, (kernel, kernel), strides=stride, name=conv_name)(y)
      return self.scheme.batch_norm(BATCH_NORM_MOMENTUM, BATCH_NORM_EPSILON, norm_name)(y, train=train)

    y = x
    for index, (features, kernel, stride) in enumerate(self.convolutions, start=1):
      y = conv_norm(nn.relu(y) if index > 1 else y, features, kernel, stride, f"conv_{index}", f"norm_{index}")
    block_stride = max(stride for _, _, stride in self.convolutions)
    if block_stride != 1 or x.shape[-1] != features:
      x = conv_norm(x, features, 1, block_stride, "shortcut", "shortcut_norm")
    return nn.relu(x + y)


class ResNet(nn.Module):
  """ResNet, 18 layers by default.

  Attributes:
    num_classes: outputs.
    scheme: quantisation of the searched layers; first convolution and classifier use `scheme.fixed`.
    stages: number of blocks of each stage; each stage after the first halves the resolution and doubles the width.
    bottleneck: blocks of 1x1, 3x3, 1x1 convolutions (50 layers and more) instead of two 3x3 ones.
    width: channels of the first stage.
    stem_kernel: 7 as published; 3 for small images.
    stem_stride: 2 as published; 1 for small images.
    stem_pool: max-pooling after the stem, as published; False for small images.
  """

  num_classes: int
  scheme: QuantizationScheme
  stages: tuple[int, ...] = RESNET18_STAGES
  bottleneck: bool = False
  width: int = 64
  stem_kernel: int = 7
  stem_stride: int = 2
  stem_pool: bool = True

  @nn.compact
  def __call__(self, images: Array, *, train: bool) -> Array:
    """Normalised images [N, H, W, C] -> logits [N, num_classes]."""
    x = QuantConv(
        self.scheme.fixed, "signed", self.width, (self.stem_kernel,) * 2, strides=self.stem_stride,
        name="stem")(images)
    x = nn.relu(self.scheme.batch_norm(BATCH_NORM_MOMENTUM, BATCH_NORM_EPSILON, "stem_norm")(x, train=train))
    if self.stem_pool:
      x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    for stage, num_blocks in enumerate(self.stages):
      features = self.width * 2**stage
      for block in range(num_blocks):
        stride = 2 if stage > 0 and block == 0 else 1
        # torchvision strides in the 3x3 convolution of a bottleneck, not in the first 1x1.
        convolutions = (
            ((features, 1, 1), (features, 3, stride), (BOTTLENECK_EXPANSION * features, 1, 1))
            if self.bottleneck else ((features, 3, stride), (features, 3, 1)))
        x = ResidualBlock(convolutions, self.scheme, name=f"stage_{stage + 1}_block_{block}")(x, train=train)
    x = jnp.mean(x, axis=(1, 2))
    return QuantDense(self.scheme.fixed, "unsigned", self.num_classes, name="classifier")(x)
