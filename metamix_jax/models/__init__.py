"""Networks by name. A name with a colon, "package.module:Class", is a network of the user's own."""

import functools
import importlib
import inspect

from flax import linen as nn

from metamix_jax.errors import UserError
from metamix_jax.models import mobilenet_v3, resnet
from metamix_jax.models.mobilenet_v2 import MobileNetV2
from metamix_jax.models.mobilenet_v3 import MobileNetV3
from metamix_jax.models.options import check_values
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
    UserError: an unknown name or option, an option that is missing or has a wrong value, or a class that is not such a
      module.
  """
  network = _user_network(name, section) if ":" in name else NETWORKS.get(name)
  if network is None:
    raise UserError(
        f"config.{section}.name is {name!r}; allowed are {', '.join(sorted(NETWORKS))} or "
        "'package.module:Class'.")
  fields = inspect.signature(network).parameters
  for field in ("num_classes", "scheme"):
    if field not in fields:
      raise UserError(
          f"config.{section}.name is {name!r}, which has no field {field!r}; it needs num_classes and scheme.")
  allowed = [field for field in fields if field not in ("num_classes", "scheme", "parent", "name")]
  for option in options:
    if option not in allowed:
      raise UserError(
          f"config.{section}.options.{option} is not a field of {name}; allowed are {', '.join(allowed) or 'none'} "
          "(options belong to one network; a config file sets both, see the README).")
  for field in allowed:
    if fields[field].default is inspect.Parameter.empty and field not in options:
      raise UserError(f"config.{section}.options.{field} is missing; {name} needs it.")
  check_values(network.func if isinstance(network, functools.partial) else network, options, section)
  module = network(num_classes=num_classes, scheme=scheme, **options)
  if not isinstance(module, nn.Module):
    raise UserError(f"config.{section}.name is {name!r}, which is not a flax.linen.Module.")
  try:
    hash(module)
  except TypeError as error:
    raise UserError(
        f"config.{section}.name is {name!r}, whose fields cannot be hashed; allowed in them are numbers, words and "
        "tuples of them.") from error
  return module


def _user_network(name, section):
  """The class that "package.module:Class" names; what goes wrong inside of its module keeps its traceback."""
  module_name, _, attribute = name.partition(":")
  wrong = f"config.{section}.name is {name!r}"
  if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
    raise UserError(f"{wrong}; allowed is 'package.module:Class'.")
  try:
    module = importlib.import_module(module_name)
  except ModuleNotFoundError as error:
    if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
      raise
    raise UserError(
        f"{wrong}, and {error.name} is not found; allowed is a module of the current folder or an installed one."
    ) from error
  network = getattr(module, attribute, None)
  if not callable(network):
    raise UserError(f"{wrong}, and {module_name} has no class {attribute}.")
  return network
