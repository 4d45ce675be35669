"""Every field of a config, once, with its meaning; a config file loads this one and changes what differs.

  config = load_config(pathlib.Path(__file__).with_name("base.py"))

Values are those of the paper's ImageNet experiments. data.name, data.image_size, data.mean, data.std, network.name and
arch.target_gbops have none, and pretraining needs a file of weights or epochs: a config that leaves one of them out is
refused with a sentence.

Sources: [P] MetaMix, AAAI 2024; [C] the public release of the MobileNetV3 experiment; [T] torchvision; [A] our choice.
The ranges of all fields: metamix_jax/config.py.
"""

import ml_collections
from ml_collections.config_dict import FieldReference, placeholder


def get_config() -> ml_collections.ConfigDict:
  """Returns the config, locked; on the command line a field is --config.section.field=VALUE, where None is a value."""
  config = ml_collections.ConfigDict()
  config.seed = 0  # Of the weights, alphas, orders of the images and augmentation.
  config.batch_size = 256  # Images in a training step, over all devices [C].
  config.evaluation_batch_size = 256  # Images, over all devices [A]; changes the rounding of logits.
  config.reestimation_batches = 50  # Training batches from which batch-norm statistics are re-estimated [A].
  config.evaluate_every_epochs = 1  # While weights are trained; the best step is kept beside the newest. 0: never [A].
  config.log_every_seconds = 30.0  # Between two lines of progress [A].
  config.compute_dtype = "float32"  # Of activations. bfloat16 keeps parameters, statistics and losses float32 [A].
  # Of products of float32 matrices, convolutions included: "highest" is float32. "high" and "default" are three and one
  # products in bfloat16 on TPUs, and TF32 on recent GPUs: up to 6 and 8 times as fast by their data sheets, but their 8
  # and 11 bits do not hold the product of a code and a step size. On CPUs all three are float32 [A].
  config.matmul_precision = "highest"
  config.bits_from = placeholder(str)  # A selected_bits.json to train with, without a search; None: search.
  # DIR of another run, whose full-precision network and meta-state are taken: bits are then searched on that meta-state
  # without bit-meta training, or are those of bits_from. None: trains them.
  config.meta_state_from = placeholder(str)

  config.checkpoints = ml_collections.ConfigDict()
  config.checkpoints.every_steps = 1000  # Within a phase; a phase's end and a SIGTERM save in any case [A].
  config.checkpoints.max_to_keep = 2  # The newest ones of the running phase, and the best besides [A].

  config.metrics = ml_collections.ConfigDict()
  config.metrics.every_steps = 100  # Steps between two lines of metrics.jsonl (docs/metrics.md); 0: no such file [A].
  config.metrics.tensorboard = True  # The same scalars as a TensorBoard event file [A].
  config.metrics.alarm_records = 2  # Lines in a row with a step size at its floor that raise an alarm [A].

  config.data = ml_collections.ConfigDict()
  config.data.name = placeholder(str)  # A TFDS data set, or "folder": ROOT/SPLIT/CLASS/IMAGE.
  config.data.data_dir = placeholder(str)  # TFDS's data_dir, or ROOT; None: TFDS's own folder. A gs:// path works.
  config.data.train_split = "train"  # TFDS's name of the split, or the folder's.
  config.data.evaluation_split = "validation"  # Likewise.
  # Epochs after which orders, crops and so the teacher's targets come again, over all phases; None: never.
  config.data.repeat_epochs = placeholder(int)
  config.data.image_size = placeholder(int)  # Height and width of what the network sees, in pixels.
  config.data.mean = placeholder(tuple)  # Of each channel of the training split, pixels on the scale 0..1.
  config.data.std = placeholder(tuple)  # Standard deviation of each channel, on the same scale.
  config.data.augmentation = "random_resized_crop"  # Or "shift", of the whole image [C].
  config.data.max_shift = 0  # Pixels of a random translation in each direction; only for "shift" [A].
  config.data.crop_area = (0.08, 1.0)  # Lowest and highest share of the image's area; only for crops [C, T].
  config.data.crop_aspect = (3 / 4, 4 / 3)  # Lowest and highest width / height; only for crops [C, T].
  config.data.flip_probability = 0.5  # Of a training image to be mirrored left to right [C, T].
  # Pixels that the short side is resized to before the centre is cropped; None: the whole image is resized [C, T].
  config.data.evaluation_short_side = FieldReference(256, field_type=int)
  config.data.shuffle_buffer = 10_000  # Encoded images; ImageNet's take 1.1 GB. Only for data that stays on disk [A].
  config.data.num_threads = 0  # That read and decode; 0: one for each core [A].
  config.data.corrupt_records = "stop"  # Or "skip": they are left out, counted and named in the log [A].

  config.network = ml_collections.ConfigDict()
  config.network.name = placeholder(str)  # One of metamix_jax.models.NETWORKS, or "package.module:Class".
  config.network.synchronized_batch_norm = True  # False: each device normalises by its own part of the batch [A].
  config.network.options = ml_collections.ConfigDict()  # Further fields of the network's class.

  config.quantization = ml_collections.ConfigDict()
  config.quantization.candidate_bits = (3, 4, 8)  # Activation bit-widths to choose from, ascending [C].
  config.quantization.weight_bits = 4  # Of all searched layers [P, C].
  # Bit-widths of weights to choose from, ascending, for the same layers; weight_bits is one of them. None: no search.
  config.quantization.candidate_weight_bits = placeholder(tuple)
  config.quantization.fixed_bits = 8  # Activations and weights of the first and the last layer [C].
  # Bits of single layers by patterns of their names, {"*/depthwise": (4, 8), "head": 8, "stem": None}: candidates; bits
  # of activations and weights; full precision. The most specific pattern decides (docs/layer-bits.md). None: none.
  config.quantization.layer_bits = FieldReference(None, field_type=object)
  config.quantization.step_size_floor = 1e-6  # Far below any useful step size; keeps x / s finite [A].
  config.quantization.depthwise = "auto"  # Depthwise convolutions: "shifted", "native", or by device [A].

  config.optimizer = ml_collections.ConfigDict()  # Adam, for weights, step sizes and batch norm [C].
  config.optimizer.beta1 = 0.9  # PyTorch's default [C].
  config.optimizer.beta2 = 0.999  # PyTorch's default [C].
  config.optimizer.epsilon = 1e-8  # Added to the root of the second moment; PyTorch's default [C].
  config.optimizer.conv_l2 = 5e-6  # L2 factor of convolution kernels, added to their gradient [C].
  config.optimizer.max_gradient_norm = 10.0  # The global norm that gradients are clipped to [C].

  config.arch = ml_collections.ConfigDict()  # The search: alphas, and the Adam that trains them.
  # "bops", "activation_bytes", or a CSV file with the cost of each layer at each bit-width (docs/costs.md). All costs,
  # the target and lambda are then in its unit, even where a name says GBOPs.
  config.arch.cost = "bops"
  # GBOPs of one image: a number; or several in ascending order that are searched side by side, (4.0, 5.12, 6.0).
  config.arch.target_gbops = FieldReference(None, field_type=object)
  # A tuple of those that go through weight training; None: all, (): none yet. May change between starts on a workdir.
  config.arch.train_targets = FieldReference(None, field_type=object)
  # A tuple of limits on further costs, ("activation_bytes=9000", "phone.csv=1.9"), in the search and in the selection;
  # bops, activation_bytes, peak_activation_bytes or a table (docs/costs.md). None: none.
  config.arch.at_most = FieldReference(None, field_type=object)
  config.arch.multiplier_learning_rate = 0.1  # Of each limit: nats in a step while its cost is twice the limit [A].
  # A selection more than this fraction below the target misses it [A]. What is left unspent costs accuracy: with 0.03
  # instead of 0.005, half a point of top-1 on digit pairs (docs/ledger.md, claim j).
  config.arch.target_tolerance = 0.005
  config.arch.penalty_weight = placeholder(float)  # lambda of M11, in nats for one GBOP; None: the next field is given.
  # lambda * target of M11, in nats, for networks of any size: lambda is 4 at 3.31 GBOPs [C]. None: lambda is given.
  config.arch.relative_penalty_weight = FieldReference(13.24, field_type=float)
  config.arch.initial_std = 1e-3  # Standard deviation of the alphas' random start [C].
  config.arch.learning_rate = 1e-4  # At the first step of the search [C].
  config.arch.final_learning_rate = 1e-4  # At the last one, by half a cosine; the same value: constant [C].
  config.arch.beta1 = 0.5  # [C].
  config.arch.beta2 = 0.999  # [C].
  config.arch.epsilon = 1e-8  # PyTorch's default [C].
  config.arch.l2 = 1e-3  # L2 factor of the alphas, added to their gradient [C].

  config.teacher = ml_collections.ConfigDict()
  config.teacher.name = "student"  # The network after pretraining; "labels": no teacher; or a network's name [A].
  config.teacher.options = ml_collections.ConfigDict()  # Further fields of a teacher of its own.
  config.teacher.weights = placeholder(str)  # File of a teacher of its own; "random" to try a config out.
  config.teacher.dtype = "float32"  # bfloat16 halves its time on TPUs; its targets differ in the third digit [A].
  # A folder for the teacher's targets, which later runs with the same images and teacher read instead of computing them
  # (docs/kept-targets.md). May be shared by runs, and may change between starts. None: they are not kept.
  config.teacher.kept_targets = placeholder(str)
  # Classes of each image whose targets are kept, the highest; the others share the rest, so targets change. None: all.
  config.teacher.kept_classes = placeholder(int)
  config.teacher.kept_gigabytes = 10.0  # Of the whole folder, from which on nothing more is written [A].

  # Phases in their order; epochs are passes over the training split.
  config.pretraining = ml_collections.ConfigDict()  # Full precision.
  config.pretraining.weights = placeholder(str)  # A file of scripts/import_torchvision.py to start from; None: random.
  # True: the last layer starts at random, whatever the file has for it: for another number of classes. Needs epochs.
  config.pretraining.new_classifier = False
  config.pretraining.epochs = 0  # 0: the file's weights are used as they are [C].
  config.pretraining.learning_rate = 3e-3  # At the first step, then half a cosine to 0 [A].
  config.bit_selection = ml_collections.ConfigDict()  # Bit-meta and bit-search steps in turns.
  config.bit_selection.epochs = 2  # [C].
  config.bit_selection.meta_only_epochs = 1  # Of these, the first ones without bit-search steps [C].
  config.bit_selection.learning_rate = 1e-4  # Of the weights, constant [C].
  config.stage_a = ml_collections.ConfigDict()  # Weight training at the selected bits, weights in full precision.
  config.stage_a.epochs = 18  # [C].
  config.stage_a.learning_rate = 5e-4  # At the first step, then half a cosine to 0 [C].
  config.stage_b = ml_collections.ConfigDict()  # Weight training at the selected bits, weights quantised as well.
  config.stage_b.epochs = 120  # [C].
  config.stage_b.learning_rate = 5e-4  # At the first step, then half a cosine to 0 [C].
  return config.lock()
