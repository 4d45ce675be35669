"""torchvision's weights in our trees: {"weights": the collection params, "batch_stats": running statistics}.

Files of state dicts are read (state_dicts.py), and folders of scripts/import_torchvision.py.
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
from metamix_jax.models.state_dicts import COUNTERS, check_values, read_state_dict
from metamix_jax.nn.scheme import QuantizationScheme

Tree = Any
# The last layer of every network here.
CLASSIFIER = "classifier"


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


def from_torchvision(
    state_dict: Mapping[str, np.ndarray], network: str, like: Tree, source: str, fresh: str | None = None) -> dict:
  """Converts a torchvision state dict.

  Args:
    state_dict: torchvision's names and arrays, in PyTorch's shapes.
    network: a key of TORCHVISION_NAMES.
    like: {"weights", "batch_stats"} of the network, arrays or shapes.
    source: of the arrays, for the error.
    fresh: as in `load`.

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
    used.add(key)
    if _belongs_to(path, fresh):
      converted[path] = leaf
      continue
    if key not in state_dict:
      raise _missing(source, key, network, "/".join(path[1:]), state_dict)
    values = np.asarray(state_dict[key], np.float32)
    # Shapes are compared in PyTorch's order, the one that the file's owner knows.
    torch_shape = tuple(np.array(leaf.shape)[np.argsort(AXES[len(leaf.shape)])].tolist())
    if values.shape != torch_shape:
      raise UserError(f"{source} has {key!r} of shape {values.shape}; this {network} needs {torch_shape}"
                      f"{_remedy(path)}.")
    converted[path] = values.transpose(AXES[values.ndim])
  extra = sorted(key for key in set(state_dict) - used if key.rpartition(".")[2] not in COUNTERS)
  if extra:
    raise UserError(f"{source} has {extra[0]!r}, which {network} does not have ({len(extra)} such keys).")
  return traverse_util.unflatten_dict(converted)


def convert_file(path: pathlib.Path, network: str) -> dict:
  """Converts a file of torchvision, for as many classes as the file has.

  Args:
    path: a file that `read_state_dict` reads.
    network: a key of TORCHVISION_NAMES.

  Raises:
    UserError: the network is unknown, the file is missing or damaged, or it does not fit the network.
  """
  _check_torchvision_network(network, path)
  if not path.exists():
    raise UserError(f"{path} does not exist.")
  state_dict = read_state_dict(path)
  classifier = f"{TORCHVISION_NAMES[network](CLASSIFIER, frozenset())}.bias"
  if classifier not in state_dict:
    raise _missing(path, classifier, network, f"{CLASSIFIER}/bias", state_dict)
  module = create_network(network, len(state_dict[classifier]), QuantizationScheme((8,), 8, 8), {})
  return from_torchvision(state_dict, network, variable_shapes(module), str(path))


def variable_shapes(module: nn.Module, image_shape: tuple[int, int, int] = (64, 64, 3)) -> Tree:
  """Returns {"weights", "batch_stats"} of a network, shapes and dtypes alone.

  Args:
    module: the network.
    image_shape: (H, W, C). The size of the images has no influence on the weights of torchvision's networks; the
      default survives every stride.
  """
  images = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
  variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)
  return {"weights": variables["params"], "batch_stats": variables.get("batch_stats", {})}


def check_exists(path: str, network: str) -> None:
  """Raises UserError if a file or folder of weights does not exist; the sentence says how to make one."""
  if not pathlib.Path(path).exists():
    raise UserError(
        f"weights of {network} are expected at {path}, which does not exist: make it with scripts/import_torchvision.py"
        f" {network} FILE {path}, FILE being torchvision's checkpoint (.pth or .safetensors).")


def load(path: str, network: str, like: Tree, fresh: str | None = None) -> dict:
  """Returns weights and running statistics of a network from a file or an imported folder.

  Args:
    path: a file that `read_state_dict` reads, or a folder of `save`.
    network: its name, as in configs.
    like: {"weights", "batch_stats"} of the network, arrays or shapes.
    fresh: path of a layer, such as CLASSIFIER, that keeps the arrays of `like`, whatever the file has for it; None: no
      layer does.

  Raises:
    UserError: the file is missing, damaged, or does not fit the network: an array is missing or extra, has another
      shape or dtype or a value that is not finite, or a variance is negative. The sentence names it.
  """
  check_exists(path, network)
  location = pathlib.Path(path).absolute()
  if location.is_dir():
    return _from_folder(location, path, network, like, fresh)
  _check_torchvision_network(network, path)
  return from_torchvision(read_state_dict(location), network, like, path, fresh)


def save(path: str, tree: Tree) -> None:
  """Saves {"weights", "batch_stats"} as an Orbax checkpoint folder, for `load`.

  Raises:
    UserError: something exists there already, or the folder cannot be written.
  """
  check_new_folder(path)
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(pathlib.Path(path).absolute(), jax.tree.map(np.asarray, tree))
  except Exception as error:  # Orbax and TensorStore raise several types for a full or vanished disk.
    raise UserError(f"{path} cannot be written ({_first_line(error)}); choose another folder.") from error


def check_new_folder(path: str) -> None:
  """Raises UserError if `save` could not make a folder: its name is empty, or something exists there."""
  if not path:
    raise UserError("the folder to write to has an empty name; choose another one.")
  if pathlib.Path(path).exists():
    raise UserError(f"{path} exists already; choose another folder.")


def _from_folder(location, path, network, like, fresh):
  """Does what `load` says with a folder of `save`."""
  own_process = ocp.options.MultiprocessingOptions(  # No call waits for another process, which may not come.
      primary_host=jax.process_index(), active_processes={jax.process_index()})
  try:
    with ocp.StandardCheckpointer(multiprocessing_options=own_process) as checkpointer:
      restored = traverse_util.flatten_dict(checkpointer.restore(location))
    saved = {leaf: np.asarray(values) for leaf, values in restored.items()}
  except Exception as error:  # Orbax raises several types for missing and damaged files.
    raise UserError(f"{path} holds no weights of this {network}: {_first_line(error)}.") from error
  needed, arrays = traverse_util.flatten_dict(like), {}
  for leaf in sorted(needed.keys() | saved.keys(), key="/".join):
    if _belongs_to(leaf, fresh):
      if leaf in needed:
        arrays[leaf] = needed[leaf]
      continue
    name, there, here = "/".join(leaf[1:]), _words(saved.get(leaf)), _words(needed.get(leaf))
    if there != here:
      raise UserError(f"{path} has {name!r} as {there}; this {network} needs {here}{_remedy(leaf)}.")
    check_values(saved[leaf], name, path, is_variance=leaf[-1] == "var")
    arrays[leaf] = saved[leaf]
  return traverse_util.unflatten_dict(arrays)


def _words(array):
  """Returns dtype and shape of an array, or what is said where it does not exist."""
  return "nothing" if array is None else f"{array.dtype} {tuple(array.shape)}"


def _belongs_to(path, layer):
  """Tells whether a leaf, (collection, modules ..., name), is one of a layer."""
  return layer is not None and "/".join(path[1:-1]) == layer


def _remedy(path):
  """Returns what to do about a leaf of another shape, as the end of a sentence."""
  if not _belongs_to(path, CLASSIFIER):
    return ""
  return ("; for another number of classes, set config.pretraining.new_classifier to True and"
          " config.pretraining.epochs to 1 or more (a teacher needs weights for the same classes)")


def _missing(source, key, network, needed_for, state_dict):
  """Returns the error about a missing key; the first name tells of a prefix."""
  first = f"; the first of its {len(state_dict)} names is {next(iter(state_dict))!r}" if state_dict else ""
  return UserError(f"{source} has no {key!r}, which {network} needs for {needed_for}{first}.")


def _first_line(error):
  return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


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
