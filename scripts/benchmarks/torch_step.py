"""PyTorch's full-precision training step of a config's network, for comparison only; needs torch and torchvision."""

from metamix_jax.data.cores import available_cores
from metamix_jax.errors import UserError


def full_precision_step(config):
  """Returns a function that runs one SGD step, channels_last, on random images.

  Raises:
    UserError: torch or torchvision is missing, or has no such network.
  """
  try:
    import torch  # Not a dependency of the package.
  except ImportError as error:
    raise _missing(error) from error
  # torchvision looks up these operators, which its own compiled part declares where that fits the installed torch.
  library = torch.library.Library("torchvision", "FRAGMENT")
  for schema in ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
                 "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"):
    try:
      library.define(schema)
    except RuntimeError:
      pass  # Declared already.
  try:
    from torchvision import models
  except ImportError as error:
    raise _missing(error) from error

  if not hasattr(models, config.network.name):
    raise UserError(f"--compare=torch: torchvision has no network {config.network.name!r}.")
  torch.set_num_threads(available_cores())
  model = getattr(models, config.network.name)(weights=None).to(memory_format=torch.channels_last).train()
  optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9)
  size = config.data.image_size
  images = torch.rand(config.batch_size, 3, size, size).to(memory_format=torch.channels_last)
  labels = torch.randint(0, 1000, (config.batch_size,))

  def step():
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()
    return library

  return step


def _missing(error):
  return UserError(f"--compare=torch needs {error.name}, which cannot be imported ({error}); install it, or leave the "
                   "flag out.")
