#!/usr/bin/env python
"""Computes from compiled programs what a step takes on 1 to 512 TPU v5e chips, and what limits it. No TPU is needed.

  JAX_PLATFORMS=cpu python scripts/benchmarks/weak_scaling.py --config=configs/imagenet.py:mobilenet_v2 \\
    --json=figures.json --plot=scale.png
  python scripts/benchmarks/weak_scaling.py --figures=figures.json --plot=scale.png

The first command compiles the programs of the config, for which aot_tpu.py says what is needed, and writes the
compiler's figures. The second one makes the same tables and the same plot from these figures in seconds. There are two
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
_STEPS = flags.DEFINE_list("steps", list(scale_report.STEPS), "Which programs are compiled.")
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
  if _FIGURES.value is not None:
    figures, programs = parse_results(_FIGURES.value, read, _FIGURES.value)
  else:
    figures = compile_figures(_CONFIG.value, images)
    if _JSON.value is not None:
      files.write_json(_JSON.value, figures)
    programs = scale_report.programs_of(figures)
  print(scale_report.text(figures, programs, images, _GLOBAL_BATCH.value))
  if _PLOT.value is not None:
    style.save(lambda: scale_report.plot(figures["network"], programs, images, _GLOBAL_BATCH.value), _PLOT.value)


def read(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, dict[int, scale_model.Program]]]:
  """Returns the figures of an earlier --json and their programs; raises what `programs_of` does."""
  figures = json.loads(path.read_text(encoding="utf-8"))
  return figures, scale_report.programs_of(figures)


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

  for name in _STEPS.value:
    if name not in scale_report.STEPS:
      raise UserError(f"--steps names {name!r}; allowed are {', '.join(scale_report.STEPS)}.")
  devices = tpu_programs.topology_devices(_TOPOLOGY.value)
  tpu_programs.set_for_tpus(config)
  networks = context.networks_without_data(config)
  found = {name: {} for name in _STEPS.value}
  for number in images:
    for name, program, arguments in tpu_programs.programs(config, *networks, devices, number * len(devices)):
      if name in found:
        compiled = tpu_programs.compile_step(program, arguments, _EFFORT.value)
        dtype = config.teacher.dtype if name == "teacher" else config.compute_dtype
        found[name][str(number)] = {
            "passes": scale_model.PASSES[config.matmul_precision] if dtype == "float32" else 1,
            **describe(compiled.as_text(), compiled.cost_analysis(), tpu_programs.memory_bytes(compiled))}
        print(f"{name}, {number} images: {found[name][str(number)]}", file=sys.stderr, flush=True)
  return {
      "network": config.network.name, "topology": _TOPOLOGY.value, "effort": _EFFORT.value,
      "versions": {package: version_of(package) for package in ("jax", "libtpu")}, "programs": found}


def describe(text: str, costs: dict[str, float], memory: int) -> dict[str, Any]:
  """Returns what one compiled program needs on each chip, for JSON.

  Args:
    text: of the compiled program.
    costs: from the compiler's cost analysis; the body of a loop is counted once.
    memory: of arguments, outputs and temporaries, in bytes.

  Returns:
    "flops" and "bytes" as in `costs`; "turns" of the loop over bit-widths, the most executions of an all-reduce;
    "memory"; "all_reduces": [bytes, executions], largest first, those of the same size together.
  """
  import tpu_programs

  together = {}
  for size, times in (reduced := tpu_programs.all_reduces(text, tpu_programs.loop_turns(text))):
    together[size] = together.get(size, 0) + times
  return {
      "flops": costs["flops"], "bytes": costs["bytes accessed"],
      "turns": max((times for _, times in reduced), default=1), "memory": memory,
      "all_reduces": sorted(([size, times] for size, times in together.items()), reverse=True)}


if __name__ == "__main__":
  app.run(main, flags_parser=flags_parser("weak_scaling"))
