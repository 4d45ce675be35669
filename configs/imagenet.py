"""MetaMix on ImageNet: the paper's three experiments, from torchvision's weights, with a ResNet-101 teacher.

Commands, after `tfds build imagenet2012 --manual_dir=FOLDER` and, for NETWORK and for resnet101, torchvision's
checkpoint: `python scripts/import_torchvision.py NETWORK FILE weights/NETWORK`
  python -m metamix_jax.main --config=configs/imagenet.py:mobilenet_v2 --workdir=runs/mobilenet_v2
  python -m metamix_jax.main --config=configs/imagenet.py:mobilenet_v3_large --workdir=runs/mobilenet_v3_large
  python -m metamix_jax.main --config=configs/imagenet.py:resnet18 --workdir=runs/resnet18
A few steps of every phase at 32 x 32 on generated images, without any file (the results mean nothing):
  python -m metamix_jax.main --config=configs/imagenet.py:resnet18-smoke --workdir=/tmp/smoke

Sources: [P] MetaMix, AAAI 2024; [C] the public release of the MobileNetV3 experiment, used for all three networks
  where the paper gives no other value; [T] torchvision; [A] our choice.
Reported top-1 [P]: MobileNetV2 72.60 at 3.98 average activation bits, 72.14 at 5.12 GBOPs; MobileNetV3-Large 74.24 at
  3.83 bits, 73.09 at 3.29 GBOPs; ResNet-18 71.94 at 3.85 bits and 32.86 GBOPs.
Expected: those, within the run-to-run noise. NOT VERIFIED HERE: these configs have never been run on ImageNet.
"""

import ml_collections

# Target in GBOPs of one image, and fields of the network. V2: [P]; V3: [C], 3.29 reached in [P]; ResNet-18: [P].
EXPERIMENTS = {
    "mobilenet_v2": (5.12, dict(dropout_rate=0.2)),  # Dropout: [T].
    "mobilenet_v3_large": (3.31, dict(dropout_rate=0.2)),  # [T].
    "resnet18": (32.86, {}),
}
# Every searched layer at 4 bits on 32 x 32 pixels with ten classes, from scripts/bops.py: within reach of the smoke test.
SMOKE_TARGETS = {"mobilenet_v2": 0.1093, "mobilenet_v3_large": 0.1194, "resnet18": 0.7082}


def get_config(experiment: str = "mobilenet_v2") -> ml_collections.ConfigDict:
  """The config of "NETWORK" or "NETWORK-smoke"; every field can be overridden, --config.section.field=value."""
  network, _, variant = experiment.partition("-")
  if network not in EXPERIMENTS or variant not in ("", "smoke"):
    raise ValueError(
        f"--config=configs/imagenet.py:{experiment} is no experiment; allowed are {', '.join(EXPERIMENTS)}, each alone"
        " or with -smoke.")
  target_gbops, options = EXPERIMENTS[network]

  config = ml_collections.ConfigDict()
  config.seed = 0
  config.batch_size = 256  # [C]; global, over all devices.
  config.evaluation_batch_size = 256  # Global; no influence on the results.
  config.reestimation_batches = 50  # [A]: 12,800 images.
  config.evaluate_every_epochs = 1  # While weights are trained; the best step is kept beside the newest. 0: never.
  config.log_every_seconds = 30.0
  config.compute_dtype = "float32"  # Of activations; bfloat16 keeps parameters, statistics and losses float32.
  config.bits_from = ml_collections.config_dict.placeholder(str)  # A selected_bits.json: no search.

  config.checkpoints = ml_collections.ConfigDict()
  config.checkpoints.every_steps = 1000  # Within a phase; a phase's end and a SIGTERM save in any case.
  config.checkpoints.max_to_keep = 2  # The newest ones of the running phase, and the best besides.

  config.metrics = ml_collections.ConfigDict()
  config.metrics.every_steps = 100  # A line of metrics.jsonl (docs/metrics.md); 0: no such file.
  config.metrics.tensorboard = True  # The same scalars as an event file.
  config.metrics.alarm_records = 2  # Lines in a row with a step size at its floor that make an alarm.

  config.data = ml_collections.ConfigDict()
  config.data.name = "imagenet2012"
  config.data.data_dir = ml_collections.config_dict.placeholder(str)  # TFDS's own folder; a gs:// path works.
  config.data.train_split = "train"
  config.data.evaluation_split = "validation"
  config.data.image_size = 224  # [C].
  config.data.mean = (0.485, 0.456, 0.406)  # [C, T].
  config.data.deviation = (0.229, 0.224, 0.225)  # [C, T].
  config.data.augmentation = "random_resized_crop"  # [C].
  config.data.max_shift = 0  # Only for augmentation "shift".
  config.data.crop_area = (0.08, 1.0)  # [C, T].
  config.data.crop_aspect = (3 / 4, 4 / 3)  # [C, T].
  config.data.flip_probability = 0.5  # [C, T].
  config.data.evaluation_short_side = 256  # [C, T].
  config.data.shuffle_buffer = 10_000  # [A]: encoded images, 1.1 GB, after the files are shuffled.
  config.data.num_threads = 0  # One for each core.
  config.data.corrupt_records = "stop"  # Or "skip": they are left out, counted and named in the log.

  config.network = ml_collections.ConfigDict()
  config.network.name = network
  config.network.synchronized_batch_norm = True  # False: each device normalises by its own part of the batch.
  config.network.options = ml_collections.ConfigDict(options)

  config.quantization = ml_collections.ConfigDict()
  config.quantization.candidate_bits = (3, 4, 8)  # [C].
  config.quantization.weight_bits = 4  # [P, C].
  config.quantization.fixed_bits = 8  # First and last layer; [C].
  config.quantization.step_size_floor = 1e-6  # [A]: far below any useful step size; keeps x / s finite.
  config.quantization.depthwise = "auto"

  config.optimizer = ml_collections.ConfigDict()
  config.optimizer.conv_l2 = 5e-6  # [C].
  config.optimizer.max_gradient_norm = 10.0  # [C].

  config.arch = ml_collections.ConfigDict()
  # Of one image; or several, ascending, searched side by side: (4.0, 5.12, 6.0).
  config.arch.target_gbops = ml_collections.FieldReference(target_gbops, field_type=object)
  # Which of several go through weight training; None: all, (): none yet. May change between starts on a workdir.
  config.arch.train_targets = ml_collections.config_dict.placeholder(tuple)
  config.arch.target_tolerance = 0.03  # [A]: a selection more than this fraction below the target wastes budget.
  config.arch.relative_penalty_weight = 4 * target_gbops  # lambda * target, with lambda = 4 [C].
  config.arch.initial_deviation = 1e-3  # [C].
  config.arch.learning_rate = 1e-4  # [C].
  config.arch.final_learning_rate = 1e-4  # [C]: constant.
  config.arch.beta1 = 0.5  # [C].
  config.arch.beta2 = 0.999  # [C].
  config.arch.l2 = 1e-3  # [C].

  config.teacher = ml_collections.ConfigDict()
  config.teacher.name = "resnet101"  # [C].
  config.teacher.options = ml_collections.ConfigDict()
  config.teacher.weights = "weights/resnet101"
  config.teacher.dtype = "float32"  # bfloat16 halves its time on TPUs; its targets then differ in the third digit.

  config.pretraining = ml_collections.ConfigDict(dict(epochs=0, learning_rate=3e-3))  # Not used: there are weights.
  config.pretraining.weights = f"weights/{network}"
  config.bit_selection = ml_collections.ConfigDict(dict(epochs=2, meta_only_epochs=1, learning_rate=1e-4))  # [C].
  config.stage_a = ml_collections.ConfigDict(dict(epochs=18, learning_rate=5e-4))  # [C].
  config.stage_b = ml_collections.ConfigDict(dict(epochs=120, learning_rate=5e-4))  # [C].
  if variant == "smoke":
    make_small(config, network)
  return config.lock()


def make_small(config: ml_collections.ConfigDict, network: str) -> None:
  """Turns an experiment into a few steps of every phase on generated images, four steps an epoch, no files needed."""
  config.batch_size, config.evaluation_batch_size, config.reestimation_batches = 16, 16, 2
  config.log_every_seconds = 5.0
  config.data.name = "generated"
  config.data.image_size, config.data.evaluation_short_side = 32, 36
  config.arch.target_gbops = SMOKE_TARGETS[network]
  config.arch.relative_penalty_weight = 4 * SMOKE_TARGETS[network]
  config.teacher.weights = "random"
  config.pretraining.weights = ml_collections.config_dict.placeholder(str)
  config.pretraining.epochs = config.stage_a.epochs = config.stage_b.epochs = 1
