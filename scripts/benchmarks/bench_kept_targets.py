#!/usr/bin/env python
"""Times a step of weight training with the teacher, and with its targets from disk, in turns in one process.

  python scripts/benchmarks/bench_kept_targets.py --config=configs/imagenet.py:mobilenet_v3_large --config.batch_size=16

Each step takes a batch of random images from the host to the devices, adds its targets, and trains stage B. F is a
full-precision step on the same batch, with labels. Targets are kept in a temporary folder, and are read through the
page cache. Ratios to F are medians over the rounds of the ratio within a round. On CPUs, run
`source scripts/cpu_environment.sh` first.
"""

import pathlib
import statistics
import tempfile
import time
from types import SimpleNamespace

from absl import app, flags
from absl import logging as absl_logging
import jax
from ml_collections import config_flags
import synthetic

from metamix_jax.command_line import exit_on_user_error, flags_parser
from metamix_jax.errors import UserError
from metamix_jax.method.bops import lowest_bits
from metamix_jax.method.precision import FULL_PRECISION, assigned_precision
from metamix_jax.training import context as contexts
from metamix_jax.training import parallel
from metamix_jax.training.targets import KeptTeacherTargets, LabelTargets, TeacherTargets

_CONFIG = config_flags.DEFINE_config_file("config", None, "The config, a Python file with get_config().")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Times that each step is measured, after one that is not.", lower_bound=1)

F = "F: full precision, labels"


@exit_on_user_error("bench_kept_targets")
def main(argv):
  """Measures the steps and prints a table; a UserError becomes one sentence and status 2."""
  del argv
  absl_logging.set_verbosity(absl_logging.WARNING)
  with tempfile.TemporaryDirectory() as folder:
    steps = make_steps(_CONFIG.value, pathlib.Path(folder))
    seconds = {name: [] for name in steps}
    for number in range(_ROUNDS.value + 1):
      for name, step in steps.items():
        start = time.perf_counter()
        step(number)
        if number:
          seconds[name].append(time.perf_counter() - start)
  print(f"{_CONFIG.value.network.name}, batch {_CONFIG.value.batch_size}, teacher {_CONFIG.value.teacher.name}, "
        f"JAX {jax.__version__}, {jax.devices()[0].device_kind}\n")
  print("| step | ms | in F |\n|---|---|---|")
  for name, values in seconds.items():
    ratio = statistics.median(value / full for value, full in zip(values, seconds[F], strict=True))
    print(f"| {name} | {1000 * statistics.median(values):.0f} | {ratio:.2f} |")


def make_steps(config, folder):
  """Returns {name: function that takes the step of a round}; in each round all of them have the same images."""
  network, teacher_network = contexts.networks_without_data(config)
  channels, size = len(config.data.mean), config.data.image_size
  states = synthetic.create_states(config, network, teacher_network, channels)
  if states.teacher is None:
    raise UserError("config.teacher.name is 'labels'; it must name a teacher, whose targets can be kept.")
  num_classes = synthetic.num_outputs(states.full_precision, (size, size, channels))
  data = SimpleNamespace(
      steps_per_epoch=2**20, num_classes=num_classes, image_shape=(size, size, channels), description={})
  programs = parallel.make_programs(matmul_precision=config.matmul_precision)
  context = contexts.TrainingContext(
      config, data, network, teacher_network, programs, contexts.make_weight_optimizer(config),
      contexts.make_arch_optimizer(config))
  assigned = assigned_precision(network.layers, lowest_bits(network.layers))
  teacher = context.replicate(states.teacher)

  def step_of(targets, meta, precision):
    state = [context.replicate(jax.device_get(meta))]

    def step(number):
      images = synthetic.create_batch(config.batch_size, data.image_shape, num_classes, number)
      images = {name: images[name] for name in ("image", "label")}
      batch = targets.add(next(context.place(targets.read(iter([images]), 0, number))))
      state[0], metrics = programs.weight_step(state[0], precision, batch)
      jax.block_until_ready(metrics)
      targets.close()

    return step

  return {
      F: step_of(LabelTargets(context), states.full_precision, FULL_PRECISION),
      "stage B, teacher": step_of(TeacherTargets(context, teacher), states.stage_b, assigned),
      "stage B, teacher, kept": step_of(KeptTeacherTargets(context, teacher, folder, 1e12), states.stage_b, assigned),
      "stage B, read": step_of(KeptTeacherTargets(context, teacher, folder, 1e12), states.stage_b, assigned)}


if __name__ == "__main__":
  flags.mark_flag_as_required("config")
  app.run(main, flags_parser=flags_parser("bench_kept_targets"))
