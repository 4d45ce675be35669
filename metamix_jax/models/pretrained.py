"""torchvision's weights in our trees: {"weights": the collection params, "batch_stats": running statistics}.

Three kinds of files are read: `.safetensors`, `.pth` (needs torch) and a folder of scripts/import_torchvision.py.
Where each of our modules is in torchvision's network is written out below, one function a family.
"""

from collections.abc import Callable, Mapping
import pathlib
import re
from typing import Any

from flax import linen as nn
from flax import traverse_util
import jax
import numpy as np
import orbax.checkpoint as ocp

from metamix_jax.errors import UserError
from metamix_jax.models import create_network
from metamix_jax.nn.scheme import QuantizationScheme

Tree = Any


def mobilenet_v2_name(module: str, modules: frozenset[str]) -> str | None:
  """torchvision's name of one of our modules; None for a module that it does not have.

  Args:
    module: path of ours, "/" between its parts.
    modules: the paths of all modules.
  """
  block, _, part = module.rpartition("/")
  if not block:
    last = 1 + _num_blocks(modules)
    return {"stem": "features.0.0", "stem_norm": "features.0.1", "head": f"features.{last}.0",
            "head_norm": f"features.{last}.1", "classifier": "classifier.1"}.get(part)
  layer, _, norm = part.partition("_")
  position = _position(block, ("expand", "depthwise", "project"), layer, modules)
  prefix = f"features.{1 + int(block.removeprefix('block_'))}.conv"
  if layer == "project":
    return f"{prefix}.{position + bool(norm)}"
  return f"{prefix}.{position}.{int(bool(norm))}"


def mobilenet_v3_name(module: str, modules: frozenset[str]) -> str | None:
  """As mobilenet_v2_name."""
  block, _, part = module.partition("/")
  if not part:
    last = 1 + _num_blocks(modules)
    return {"stem": "features.0.0", "stem_norm": "features.0.1", "head": f"features.{last}.0",
            "head_norm": f"features.{last}.1", "penultimate": "classifier.0", "classifier": "classifier.3"}.get(block)
  order = ("expand", "depthwise", "squeeze_excite/squeeze", "project")
  prefix = f"features.{1 + int(block.removeprefix('block_'))}.block"
  if part.startswith("squeeze_excite/"):
    position = _position(block, order, "squeeze_excite/squeeze", modules)
    return f"{prefix}.{position}.{'fc1' if part.endswith('/squeeze') else 'fc2'}"
  layer = part.removesuffix("_norm")
  return f"{prefix}.{_position(block, order, layer, modules)}.{int(layer != part)}"


def resnet_name(module: str, modules: frozenset[str]) -> str | None:
  """As mobilenet_v2_name."""
  del modules
  top = {"stem": "conv1", "stem_norm": "bn1", "classifier": "fc"}
  if module in top:
    return top[module]
  place, _, part = module.partition("/")
  stage, block = re.findall(r"\d+", place)
  inner = {"shortcut": "downsample.0", "shortcut_norm": "downsample.1"}
  return f"layer{stage}.{block}." + (
      inner.get(part) or part.replace("conv_", "conv").replace("norm_", "bn"))


TORCHVISION_NAMES: dict[str, Callable[[str, frozenset[str]], str | None]] = {
    "mobilenet_v2": mobilenet_v2_name,
    "mobilenet_v3_large": mobilenet_v3_name,
    "mobilenet_v3_small": mobilenet_v3_name,
    "resnet18": resnet_name,
    "resnet50": resnet_name,
    "resnet101": resnet_name,
}
# Our leaf, torchvision's, and the axes that turn the latter into the former (by number of dimensions).
LEAVES = {"kernel": "weight", "bias": "bias", "scale": "weight", "mean": "running_mean", "var": "running_var"}
AXES = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}  # OIHW -> HWIO, [out, in] -> [in, out].
IGNORED_LEAF = "num_batches_tracked"  # PyTorch's counter; our running statistics need none.


def from_torchvision(state_dict: Mapping[str, np.ndarray], network: str, like: Tree, source: str) -> dict:
  """Converts a torchvision state dict.

  Args:
    state_dict: torchvision's names and arrays, in PyTorch's shapes.
    network: a key of TORCHVISION_NAMES.
    like: {"weights", "batch_stats"} of the network, arrays or shapes.
    source: of the arrays, for the error.

  Returns:
    {"weights", "batch_stats"}, float32 NumPy arrays in the structure of `like`.

  Raises:
    UserError: a key is missing, extra or of another shape; the sentence names it.
  """
  leaves = traverse_util.flatten_dict(like)
  modules = frozenset("/".join(path[1:-1]) for path in leaves)
  converted, used = {}, set()
  for path, leaf in leaves.items():
    key = f"{TORCHVISION_NAMES[network]('/'.join(path[1:-1]), modules)}.{LEAVES[path[-1]]}"
    if key not in state_dict:
      raise UserError(f"{source} has no {key!r}, which {network} needs for {'/'.join(path[1:])}.")
    values = np.asarray(state_dict[key], np.float32)
    # Shapes are compared in PyTorch's order, the one that the file's owner knows.
    torch_shape = tuple(np.array(leaf.shape)[np.argsort(AXES[len(leaf.shape)])].tolist())
    if values.shape != torch_shape:
      raise UserError(f"{source} has {key!r} of shape {values.shape}; this {network} needs {torch_shape}.")
    converted[path] = values.transpose(AXES[values.ndim])
    used.add(key)
  extra = sorted(key for key in set(state_dict) - used if key.rpartition(".")[2] != IGNORED_LEAF)
  if extra:
    raise UserError(f"{source} has {extra[0]!r}, which {network} does not have ({len(extra)} such keys).")
  return traverse_util.unflatten_dict(converted)


def convert_file(path: pathlib.Path, network: str) -> dict:
  """`from_torchvision` of a file, for as many classes as the file has.

  Args:
    path: `.safetensors` or `.pth`.
    network: a key of TORCHVISION_NAMES.

  Raises:
    UserError: the network is unknown, the file is missing or damaged, or it does not fit the network.
  """
  _check_torchvision_network(network, path)
  if not path.exists():
    raise UserError(f"{path} is not there.")
  state_dict = read_state_dict(path)
  classifier = f"{TORCHVISION_NAMES[network]('classifier', frozenset())}.bias"
  if classifier not in state_dict:
    raise UserError(f"{path} has no {classifier!r}, which {network} needs for classifier/bias.")
  module = create_network(network, len(state_dict[classifier]), QuantizationScheme((8,), 8, 8), {})
  return from_torchvision(state_dict, network, variable_shapes(module), str(path))


def variable_shapes(module: nn.Module) -> Tree:
  """{"weights", "batch_stats"} of a network of colour images, shapes and dtypes alone."""
  # The size of the images has no influence on the weights; this one survives every stride.
  images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
  variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)
  return {"weights": variables["params"], "batch_stats": variables["batch_stats"]}


def read_state_dict(path: pathlib.Path) -> dict[str, np.ndarray]:
  """The arrays of a `.safetensors` or `.pth` file by name.

  Raises:
    UserError: another kind of file, a damaged one, or torch is missing for a `.pth`.
  """
  try:
    if path.suffix == ".safetensors":
      from safetensors.numpy import load_file  # An optional dependency.
      return load_file(path)
    if path.suffix in (".pth", ".pt"):
      import torch  # An optional dependency.
      tensors = torch.load(path, map_location="cpu", weights_only=True)
      return {name: tensor.numpy() for name, tensor in tensors.items()}
  except ImportError as error:
    raise UserError(
        f"{path} cannot be read without {error.name}: pip install 'metamix_jax[torch]', or convert the file to "
        ".safetensors.") from error
  except Exception as error:  # Both readers raise types of their own for a damaged file.
    raise UserError(f"{path} cannot be read as a state dict: {str(error).splitlines()[0]}.") from error
  raise UserError(f"{path} is no file of weights; allowed are .safetensors, .pth, or an imported folder.")


def check_exists(path: str, network: str) -> None:
  """Raises UserError if a file or folder of weights is not there; the sentence says how to make one."""
  if not pathlib.Path(path).exists():
    raise UserError(
        f"weights of {network} are expected at {path}, which is not there: make it with scripts/import_torchvision.py "
        f"{network} FILE {path}, FILE being torchvision's checkpoint (.pth or .safetensors).")


def load(path: str, network: str, like: Tree) -> dict:
  """Weights and running statistics of a network from a file or an imported folder.

  Args:
    path: `.safetensors`, `.pth`, or a folder of `save`.
    network: its name, as in configs.
    like: {"weights", "batch_stats"} of the network, arrays or shapes.

  Raises:
    UserError: the file is missing, damaged, or does not fit the network.
  """
  check_exists(path, network)
  location = pathlib.Path(path).absolute()
  if not location.is_dir():
    _check_torchvision_network(network, path)
    return from_torchvision(read_state_dict(location), network, like, path)
  shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, np.float32), like)
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      return jax.tree.map(np.asarray, checkpointer.restore(location, shapes))
  except Exception as error:  # Orbax raises several types for missing files, other trees and other shapes.
    raise UserError(f"{path} holds no weights of this {network}: {str(error).splitlines()[0]}.") from error


def save(path: str, tree: Tree) -> None:
  """Saves {"weights", "batch_stats"} as an Orbax checkpoint folder, for `load`.

  Raises:
    UserError: something is there already.
  """
  location = pathlib.Path(path).absolute()
  if location.exists():
    raise UserError(f"{path} exists already; choose another folder.")
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(location, tree)


def _check_torchvision_network(network, path):
  if network not in TORCHVISION_NAMES:
    raise UserError(
        f"{path} is a torchvision file, and {network} is none of its networks; allowed are "
        f"{', '.join(TORCHVISION_NAMES)}, or a folder that was saved with metamix_jax.pretrained.save.")


def _num_blocks(modules):
  return len({module.partition("/")[0] for module in modules if module.startswith("block_")})


def _position(block, order, layer, modules):
  """Place of a layer among those of `order` that its block has."""
  return [name for name in order if f"{block}/{name}" in modules].index(layer)
