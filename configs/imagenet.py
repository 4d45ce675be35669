"""MetaMix on ImageNet: the paper's three experiments, from torchvision's weights, with a ResNet-101 teacher.

Commands, after `tfds build imagenet2012 --manual_dir=FOLDER` and, for NETWORK and for resnet101, torchvision's
checkpoint: `python scripts/import_torchvision.py NETWORK FILE weights/NETWORK`
  python -m metamix_jax.main --config=configs/imagenet.py:mobilenet_v2 --workdir=runs/mobilenet_v2
  python -m metamix_jax.main --config=configs/imagenet.py:mobilenet_v3_large --workdir=runs/mobilenet_v3_large
  python -m metamix_jax.main --config=configs/imagenet.py:resnet18 --workdir=runs/resnet18
A few steps of every phase at 32 x 32 on generated images, without any file (the results mean nothing):
  python -m metamix_jax.main --config=configs/imagenet.py:resnet18-smoke --workdir=/tmp/smoke

Sources: [P] MetaMix, AAAI 2024; [C] the public release of the MobileNetV3 experiment, used for all three networks
  where the paper gives no other value; [T] torchvision. What is not set here is set, with its source, in base.py.
Reported top-1 [P]: MobileNetV2 72.60 at 3.98 average activation bits, 72.14 at 5.12 GBOPs; MobileNetV3-Large 74.24 at
  3.83 bits, 73.09 at 3.29 GBOPs; ResNet-18 71.94 at 3.85 bits and 32.86 GBOPs.
Expected: those, within the run-to-run noise. NOT VERIFIED HERE: these configs have never been run on ImageNet.
"""

import pathlib

import ml_collections

from metamix_jax.config_file import load_config
from metamix_jax.errors import UserError

# Target in GBOPs of one image, and fields of the network. V2: [P]; V3: [C], 3.29 reached in [P]; ResNet-18: [P].
EXPERIMENTS = {
    "mobilenet_v2": (5.12, dict(dropout_rate=0.2)),  # Dropout: [T].
    "mobilenet_v3_large": (3.31, dict(dropout_rate=0.2)),  # [T].
    "resnet18": (32.86, {}),
}
# Every searched layer at 4 bits on 32 x 32 pixels with ten classes (scripts/bops.py): in reach of the smoke tests.
SMOKE_TARGETS = {"mobilenet_v2": 0.1093, "mobilenet_v3_large": 0.1194, "resnet18": 0.7082}


def get_config(experiment: str = "mobilenet_v2") -> ml_collections.ConfigDict:
  """Returns configs/base.py with the values of the experiment "NETWORK" or "NETWORK-smoke".

  Raises:
    UserError: there is no such experiment.
  """
  network, _, variant = experiment.partition("-")
  if network not in EXPERIMENTS or variant not in ("", "smoke"):
    raise UserError(
        f"--config=configs/imagenet.py:{experiment} is not an experiment; allowed are {', '.join(EXPERIMENTS)}, each "
        "alone or with -smoke.")
  target_gbops, options = EXPERIMENTS[network]

  config = load_config(pathlib.Path(__file__).with_name("base.py"))
  config.data.name = "imagenet2012"
  config.data.image_size = 224  # [C].
  config.data.mean = (0.485, 0.456, 0.406)  # [C, T].
  config.data.std = (0.229, 0.224, 0.225)  # [C, T].
  config.network.name = network
  config.network.options = ml_collections.ConfigDict(options)
  config.arch.target_gbops = target_gbops
  config.arch.penalty_weight, config.arch.relative_penalty_weight = 4.0, None  # lambda, at every target [C].
  config.teacher.name = "resnet101"  # [C].
  config.teacher.weights = "weights/resnet101"
  config.pretraining.weights = f"weights/{network}"
  if variant == "smoke":
    make_small(config, network)
  return config


def make_small(config: ml_collections.ConfigDict, network: str) -> None:
  """Turns an experiment into a few steps of every phase on generated images, four steps an epoch, no files needed."""
  config.batch_size, config.evaluation_batch_size, config.reestimation_batches = 16, 16, 2
  config.log_every_seconds = 5.0
  config.data.name = "generated"
  config.data.image_size, config.data.evaluation_short_side = 32, 36
  config.arch.target_gbops = SMOKE_TARGETS[network]
  config.teacher.weights = "random"
  config.pretraining.weights = None
  config.pretraining.epochs = config.stage_a.epochs = config.stage_b.epochs = 1
