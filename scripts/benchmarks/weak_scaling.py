#!/usr/bin/env python
"""Computes from compiled programs what a step takes on 1 to 512 TPU v5e chips, and what limits it. No TPU is needed.

  JAX_PLATFORMS=cpu python scripts/benchmarks/weak_scaling.py --config=configs/imagenet.py:mobilenet_v2 \\
    --json=figures.json --plot=scale.png
  python scripts/benchmarks/weak_scaling.py --figures=figures.json --plot=scale.png

The first command compiles the programs of the config, for which aot_tpu.py says what is needed, and writes the
compiler's figures after each program. The second one makes tables and plot from these figures in seconds. There are two
regimes: a fixed number of images on every chip, and one global batch split over the chips. scale_model.py has the
arithmetic and the constants of the chip with their sources.

The compiler counts the body of a loop once. Here FLOPs and bytes of a program with a loop over the bit-widths are
multiplied by the turns of the loop. This counts the optimiser's update, which is outside of the loop, as often.
"""

from collections.abc import Sequence
import json
import pathlib
import sys
from typing import Any

from absl import app, flags
from absl import logging as absl_logging
import ml_collections
from ml_collections import config_flags
import scale_model
import scale_report

from metamix_jax.command_line import define_path, exit_on_user_error, flags_parser, numbers_of
from metamix_jax.errors import UserError
from metamix_jax.records import files
from metamix_jax.records.results import parse_results
from metamix_jax.records.summary import version_of
from metamix_jax.reporting import style

_CONFIG = config_flags.DEFINE_config_file("config", None, "The config, a Python file with get_config().")
_TOPOLOGY = flags.DEFINE_string("topology", "v5e:4x4", "The slice for which the programs are compiled.")
_IMAGES = flags.DEFINE_list("images", ["8", "16", "256"], "On a chip: what is compiled, and the columns of a table.")
_STEPS = flags.DEFINE_list("steps", list(scale_report.COMPILED_STEPS), "Which programs are compiled.")
_EFFORT = flags.DEFINE_float("effort", -1.0, "Of the compiler, from -1 to 1.", lower_bound=-1.0, upper_bound=1.0)
_JSON = define_path("json", None, "File for the compiler's figures.")
_FIGURES = define_path("figures", None, "File of an earlier --json; nothing is compiled.")
_GLOBAL_BATCH = flags.DEFINE_integer("global_batch", 4096, "Images of the batch that is split.", lower_bound=1)
_PLOT = define_path("plot", None, "PNG for the plot.")


@exit_on_user_error("weak_scaling")
def main(argv):
  """Computes, prints and draws; a UserError becomes one sentence and status 2."""
  del argv
  absl_logging.set_verbosity(absl_logging.WARNING)
  for path in (_JSON.value, _PLOT.value):
    if path is not None:
      files.check_writable(path)
  images = sorted(numbers_of(_IMAGES.value, "--images"))
  if (_CONFIG.value is None) == (_FIGURES.value is None):
    raise UserError("--config and --figures are both given or both missing; give one of them.")
  if _FIGURES.value is not None and _JSON.value is not None:
    raise UserError("--json is given with --figures, which are such a file already; leave it out.")
  if _FIGURES.value is not None:
    figures, programs = parse_results(_FIGURES.value, read, _FIGURES.value)
    scale_report.check_complete(programs, f"{_FIGURES.value} has")
  else:
    scale_report.check_complete(dict.fromkeys(compiled_steps(_CONFIG.value), {1: None}), "--steps names")
    figures = compile_figures(_CONFIG.value, images)
    programs = scale_report.programs_of(figures)
  scale_report.check_enclosed(programs, images, _GLOBAL_BATCH.value)
  print(scale_report.text(figures, programs, images, _GLOBAL_BATCH.value))
  if _PLOT.value is not None:
    style.save(lambda: scale_report.plot(figures["network"], programs, images, _GLOBAL_BATCH.value), _PLOT.value)


def read(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, dict[int, scale_model.Program]]]:
  """Returns the figures of an earlier --json and their programs; raises what `programs_of` does."""
  figures = json.loads(path.read_text(encoding="utf-8"))
  for name in ("network", "topology", "effort", "versions"):
    figures[name]
  return figures, scale_report.programs_of(figures)


def compiled_steps(config: ml_collections.ConfigDict) -> list[str]:
  """Returns the programs of --steps that a config has; raises UserError if one does not exist."""
  for name in _STEPS.value:
    if name not in scale_report.COMPILED_STEPS:
      raise UserError(f"--steps names {name!r}; allowed are {', '.join(scale_report.COMPILED_STEPS)}.")
  return [name for name in _STEPS.value if name != scale_report.TEACHER or config.teacher.name != "labels"]


def compile_figures(config: ml_collections.ConfigDict, images: Sequence[int]) -> dict[str, Any]:
  """Compiles the programs of --steps for each number of images on a chip.

  Args:
    config: a validated config.
    images: on a chip.

  Returns:
    For JSON: what was compiled and with which versions, and "programs", {step: {images: figures of `describe`}}.

  Raises:
    UserError: a step or the slice does not exist, or a program needs more memory than a chip has.
  """
  import tpu_programs  # Here, because the tables of saved figures need no compiler.

  from metamix_jax.training import context

  if not _TOPOLOGY.value.startswith("v5e:"):
    raise UserError(f"--topology is {_TOPOLOGY.value!r}; allowed are slices of v5e, whose constants the model has.")
  devices = tpu_programs.topology_devices(_TOPOLOGY.value)
  tpu_programs.set_for_tpus(config)
  networks = context.networks_without_data(config)
  found = {name: {} for name in compiled_steps(config)}
  figures = {
      "network": config.network.name, "topology": _TOPOLOGY.value, "effort": _EFFORT.value,
      "versions": {package: version_of(package) for package in ("jax", "libtpu")}, "programs": found}
  for number in images:
    for name, program, arguments in tpu_programs.programs(config, *networks, devices, number * len(devices)):
      if name in found:
        compiled = tpu_programs.compile_step(program, arguments, _EFFORT.value)
        dtype = config.teacher.dtype if name == "teacher" else config.compute_dtype
        found[name][str(number)] = {
            "passes": scale_model.PASSES[config.matmul_precision] if dtype == "float32" else 1,
            **tpu_programs.describe(compiled.as_text(), compiled.cost_analysis(), tpu_programs.memory_bytes(compiled))}
        print(f"{name}, {number} images: {found[name][str(number)]}", file=sys.stderr, flush=True)
        if _JSON.value is not None:  # A program takes minutes, and the next one may not fit.
          files.write_json(_JSON.value, figures)
  return figures


if __name__ == "__main__":
  app.run(main, flags_parser=flags_parser("weak_scaling"))
