#!/usr/bin/env python
"""Converts a torchvision checkpoint to a folder that config.pretraining.weights and config.teacher.weights accept.

  python scripts/import_torchvision.py mobilenet_v2 mobilenet_v2-b0353104.pth weights/mobilenet_v2
  python scripts/import_torchvision.py resnet101 resnet101.safetensors weights/resnet101

A `.pth` needs torch (pip install -e '.[torch]'), a `.safetensors` does not. A training checkpoint will do: the state
dict is found under "model_ema", "model" or "state_dict", and prefixes such as "module." are taken off. The file
determines the number of classes; config.pretraining.new_classifier starts from it with another number. Each array of
the file is used exactly once. If one is missing, superfluous, of another shape or not finite, a sentence names it, and
nothing is written.
"""


from absl import app
from absl import logging as absl_logging
import jax

from metamix_jax.command_line import exit_on_user_error, flags_parser
from metamix_jax.errors import UserError
from metamix_jax.models import pretrained
from metamix_jax.records.paths import local_path


@exit_on_user_error("import_torchvision")
def main(argv):
  """Converts one file; a UserError becomes one sentence and status 2."""
  absl_logging.set_verbosity(absl_logging.WARNING)
  if len(argv) != 4:
    raise UserError(f"the arguments are MODEL IN OUT, MODEL one of {', '.join(pretrained.TORCHVISION_NAMES)}.")
  network = argv[1]
  source, target = (local_path(argument, name) for argument, name in zip(argv[2:], ("IN", "OUT"), strict=True))
  pretrained.check_new_folder(target)
  tree = pretrained.convert_file(source, network)
  pretrained.save(target, tree)
  leaves = jax.tree.leaves(tree)
  print(f"{target}: {network}, {len(leaves)} arrays, {sum(leaf.size for leaf in leaves):,} numbers.")


if __name__ == "__main__":
  app.run(main, flags_parser=flags_parser("import_torchvision"))
