"""Reads PyTorch's state dicts as they come: in a training checkpoint, with prefixes, in half precision."""

import argparse
from collections.abc import Mapping
import logging
import pathlib
import re
from typing import Any

import jax.numpy as jnp
import numpy as np

from metamix_jax.errors import UserError

logger = logging.getLogger("metamix_jax")

SAFETENSORS, TORCH = (".safetensors",), (".pth", ".pt", ".bin", ".ckpt", ".tar")
# Where training scripts put the weights. Averaged ones come first, because such scripts report their accuracy.
_NESTED = ("model_ema", "state_dict_ema", "model", "state_dict", "model_state_dict")
# What wrappers put before every name: (Distributed)DataParallel and AveragedModel, torch.compile, Lightning.
_PREFIXES = ("module.", "_orig_mod.", "model.")
# PyTorch's counters, of batch norm and of AveragedModel; the last part of a name.
COUNTERS = ("num_batches_tracked", "n_averaged")
_VARIANCE = "running_var"
_SAVE_IT_ALONE = "save the state dict alone, with torch.save(model.state_dict(), FILE)"


def read_state_dict(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns the arrays of a `.safetensors` file or of PyTorch's own format (TORCH), float32, by name.

  The dict may be nested in a training checkpoint, and its names may have the prefixes of wrappers; counters are left
  out.

  Raises:
    UserError: another kind of file, a damaged one, or torch is missing; or an entry is not a tensor of floating-point
      numbers, a value is not finite, or a variance is negative: the sentence names it.
  """
  arrays = {}
  for name, value in unwrap(_load(path), str(path)).items():
    if name.rpartition(".")[2] in COUNTERS:
      continue
    arrays[name] = _as_array(value, name, str(path))
    check_values(arrays[name], name, str(path), is_variance=name.endswith(_VARIANCE))
  return arrays


def unwrap(content: Any, source: str) -> dict[str, Any]:
  """Finds the state dict in what a file holds, and takes the prefixes of wrappers off its names.

  Args:
    content: what the file holds.
    source: its path, for the sentence.

  Raises:
    UserError: there is no state dict.
  """
  while isinstance(content, Mapping):
    nested = [name for name in _NESTED if isinstance(content.get(name), Mapping)]
    if not nested:
      break
    logger.info("%s holds %s; %s is read", source, ", ".join(map(str, content)), nested[0])
    content = content[nested[0]]
  if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
    raise UserError(f"{source} holds a {type(content).__name__} and not a state dict; {_SAVE_IT_ALONE}.")
  content = {name: value for name, value in content.items() if name not in COUNTERS}
  while content:
    prefix = next((prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in content)), None)
    if prefix is None:
      break
    content = {name.removeprefix(prefix): value for name, value in content.items()}
  return content


def check_values(values: np.ndarray, name: str, source: str, *, is_variance: bool) -> None:
  """Raises UserError if a value is not finite, or if one of several variances is negative."""
  if not np.isfinite(values).all():
    raise UserError(
        f"{source} has {name!r} with {np.count_nonzero(~np.isfinite(values))} of {values.size} values that are not"
        " finite in float32; use an earlier checkpoint of its training.")
  if is_variance and (values < 0).any():
    raise UserError(
        f"{source} has {name!r} with variances as low as {values.min():.6g}, and none may be negative; the file is"
        " damaged or was converted wrongly.")


def _load(path):
  """Returns what a file holds."""
  try:
    if path.suffix in SAFETENSORS:
      from safetensors.numpy import load_file  # An optional dependency.
      return load_file(path)
    if path.suffix in TORCH:
      import torch  # An optional dependency.
      # torchvision's training script saves its command line along with the weights.
      with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)
  except ImportError as error:
    raise UserError(
        f"{path} cannot be read without {error.name}: pip install 'metamix_jax[torch]', or convert the file to "
        ".safetensors.") from error
  except Exception as error:  # Both readers raise types of their own for a damaged file.
    if pickled := re.search(r"GLOBAL (\S+)", str(error)):
      raise UserError(
          f"{path} holds a {pickled[1]}, whose reading could run code; if you trust the file, load it with"
          f" torch.load(FILE, weights_only=False), and {_SAVE_IT_ALONE}.") from error
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    raise UserError(f"{path} cannot be read as a state dict: {reason}.") from error
  raise UserError(
      f"{path} is not a file of weights; allowed are {', '.join(SAFETENSORS + TORCH)}, or an imported folder.")


def _as_array(value, name, source):
  """Returns an entry, a tensor of PyTorch or of NumPy, as float32."""
  try:
    if hasattr(value, "detach"):
      kind = str(value.dtype)
      value = value.detach().float().numpy() if value.is_floating_point() else None
    else:
      kind = str(value.dtype)
      value = value if jnp.issubdtype(value.dtype, np.floating) else None
  except AttributeError:
    raise UserError(
        f"{source} has {name!r}, which is a {type(value).__name__} and not a tensor; {_SAVE_IT_ALONE}.") from None
  except (TypeError, RuntimeError) as error:  # PyTorch's words for sparse and quantised tensors.
    raise UserError(f"{source} has {name!r}, which is not a plain tensor: {str(error).splitlines()[0]}") from error
  if value is None:
    raise UserError(f"{source} has {name!r} of type {kind}; weights are floating-point numbers.")
  with np.errstate(over="ignore"):  # A float64 beyond float32 becomes an infinity, which is refused.
    return np.asarray(value, np.float32)
