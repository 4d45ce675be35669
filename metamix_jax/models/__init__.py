"""Networks by name. A name with a colon, "package.module:Class", is a network of the user's own."""

import importlib
import inspect

from flax import linen as nn

from metamix_jax.layers import QuantizationScheme
from metamix_jax.models.mobilenet_v2 import MobileNetV2

NETWORKS = {"mobilenet_v2": MobileNetV2}


def create_network(name: str, num_classes: int, scheme: QuantizationScheme, options: dict) -> nn.Module:
  """The network of a config.

  Args:
    name: a key of NETWORKS, or "package.module:Class" for a Flax module with the fields `num_classes` and
      `scheme`.
    num_classes: outputs.
    scheme: how its layers are quantised.
    options: further fields of the module.

  Raises:
    ValueError: an unknown name or option.
  """
  network = _user_network(name) if ":" in name else NETWORKS.get(name)
  if network is None:
    raise ValueError(
        f"config.network.name is {name!r}; allowed are {', '.join(sorted(NETWORKS))} or 'package.module:Class'.")
  allowed = [field for field in inspect.signature(network).parameters if field not in ("num_classes", "scheme", "parent", "name")]
  for option in options:
    if option not in allowed:
      raise ValueError(f"config.network.options.{option} is no field of {name}; allowed are {', '.join(allowed)}.")
  return network(num_classes=num_classes, scheme=scheme, **options)


def _user_network(name: str):
  module, _, attribute = name.partition(":")
  try:
    return vars(importlib.import_module(module))[attribute]
  except (ImportError, KeyError, ValueError) as error:
    raise ValueError(f"config.network.name is {name!r}, which cannot be imported: {error}.") from error
