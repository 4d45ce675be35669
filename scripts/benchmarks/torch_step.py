"""PyTorch's full-precision training step of a config's network, for comparison only; needs torch and torchvision."""

import sys

import jax

from metamix_jax.data.cores import available_cores
from metamix_jax.errors import UserError


def full_precision_step(config):
  """Returns a function that runs one SGD step, channels_last, on random images, on the kind of device that JAX has.

  Products are as the config has them: in bfloat16 by autocast, in TF32 where matmul_precision leaves it to the device.

  Raises:
    UserError: torch or torchvision is missing, has no such network, or has no GPU where JAX has one.
  """
  try:
    import torch  # Not a dependency of the package.
  except ImportError as error:
    raise _missing(error) from error
  try:
    models, operators = _torchvision_models(torch)
  except ImportError as error:
    raise _missing(error) from error

  if not hasattr(models, config.network.name):
    raise UserError(f"--compare=torch: torchvision has no network {config.network.name!r}.")
  on_gpu = jax.default_backend() == "gpu"
  if on_gpu and not torch.cuda.is_available():
    raise UserError(f"--compare=torch: JAX runs on {jax.devices()[0].device_kind}, and torch sees no GPU.")
  device = torch.device("cuda" if on_gpu else "cpu")
  torch.set_num_threads(available_cores())
  torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.matmul_precision != "highest"
  torch.backends.cudnn.benchmark = True  # Like XLA, it tries several algorithms for each convolution.
  model = getattr(models, config.network.name)(weights=None).to(device, memory_format=torch.channels_last).train()
  optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9)
  size = config.data.image_size
  images = torch.rand(config.batch_size, 3, size, size).to(device, memory_format=torch.channels_last)
  labels = torch.randint(0, 1000, (config.batch_size,)).to(device)

  def step():
    optimizer.zero_grad()
    with torch.autocast(device.type, torch.bfloat16, enabled=config.compute_dtype == "bfloat16"):
      loss = torch.nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    if on_gpu:
      torch.cuda.synchronize()
    return operators  # Alive as long as the step is.

  return step


def _torchvision_models(torch):
  """Returns torchvision.models, and what must live as long as it is used."""
  try:
    from torchvision import models
    return models, None
  except RuntimeError as error:
    if "does not exist" not in str(error):
      raise
    # Its compiled part, which declares these operators, does not fit the installed torch.
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
      del sys.modules[name]
  library = torch.library.Library("torchvision", "FRAGMENT")
  for schema in ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
                 "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"):
    library.define(schema)
  from torchvision import models
  return models, library


def _missing(error):
  return UserError(f"--compare=torch needs {error.name}, which cannot be imported ({error}); install it, or leave the "
                   "flag out.")
