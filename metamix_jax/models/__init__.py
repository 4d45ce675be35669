"""Networks by name. A name with a colon, "package.module:Class", is a network of the user's own."""

import functools
import importlib
import inspect

from flax import linen as nn

from metamix_jax.errors import UserError
from metamix_jax.models import mobilenet_v3, resnet
from metamix_jax.models.mobilenet_v2 import MobileNetV2
from metamix_jax.models.mobilenet_v3 import MobileNetV3
from metamix_jax.models.resnet import ResNet
from metamix_jax.nn.scheme import QuantizationScheme

NETWORKS = {
    "mobilenet_v2": MobileNetV2,
    "mobilenet_v3_large": MobileNetV3,
    "mobilenet_v3_small": functools.partial(
        MobileNetV3, blocks=mobilenet_v3.SMALL_BLOCKS, last_channels=mobilenet_v3.SMALL_LAST_CHANNELS),
    "resnet18": ResNet,
    "resnet50": functools.partial(ResNet, stages=resnet.RESNET50_STAGES, bottleneck=True),
    "resnet101": functools.partial(ResNet, stages=resnet.RESNET101_STAGES, bottleneck=True),
}


def create_network(
    name: str, num_classes: int, scheme: QuantizationScheme, options: dict, section: str = "network"
) -> nn.Module:
  """The network of a config.

  Args:
    name: a key of NETWORKS, or "package.module:Class" for a Flax module with the fields `num_classes` and
      `scheme`.
    num_classes: outputs.
    scheme: how its layers are quantised.
    options: further fields of the module.
    section: of the config, for the errors.

  Raises:
    UserError: an unknown name or option.
  """
  network = _user_network(name, section) if ":" in name else NETWORKS.get(name)
  if network is None:
    raise UserError(
        f"config.{section}.name is {name!r}; allowed are {', '.join(sorted(NETWORKS))} or "
        "'package.module:Class'.")
  not_options = ("num_classes", "scheme", "parent", "name")
  allowed = [field for field in inspect.signature(network).parameters if field not in not_options]
  for option in options:
    if option not in allowed:
      raise UserError(f"config.{section}.options.{option} is no field of {name}; allowed are {', '.join(allowed)}.")
  return network(num_classes=num_classes, scheme=scheme, **options)


def _user_network(name, section):
  module, _, attribute = name.partition(":")
  try:
    return vars(importlib.import_module(module))[attribute]
  except (ImportError, KeyError, ValueError) as error:
    raise UserError(f"config.{section}.name is {name!r}, which cannot be imported: {error}.") from error
