"""Exports a finished run: from its folder to DIR/export, certified or not at all."""

from collections.abc import Mapping, Sequence
import contextlib
import hashlib
import importlib.util
import json
import logging
import pathlib
import shutil
from typing import Any

import jax
import numpy as np

from metamix_jax.errors import UserError
from metamix_jax.export import bits_table, certificate, memory, program, saved_network, stablehlo
from metamix_jax.export.evaluator import Program
from metamix_jax.export.folding import make_program
from metamix_jax.method.bops import LayerCost
from metamix_jax.records import folder_lock
from metamix_jax.records.files import write_json
from metamix_jax.records.names import format_target
from metamix_jax.records.paths import local_folder
from metamix_jax.records.workdir import load_config_of_run

logger = logging.getLogger("metamix_jax")

# Formats besides the program itself, which is written in any case; the last three are ONNX files.
PROGRAM, STABLEHLO, INTEGER, QCDQ, QONNX = FORMATS = ("program", "stablehlo", "integer", "qcdq", "qonnx")
ONNX_FORMATS = (INTEGER, QCDQ, QONNX)
NUM_GOLDEN_IMAGES = 4


def export_run(
    workdir: pathlib.Path, *, target: float | None = None, formats: Sequence[str] = FORMATS,
    num_exact: int | None = None,
) -> pathlib.Path:
  """Exports the network that a run trained for a target.

  Args:
    workdir: DIR, a finished run.
    target: in GBOPs or the unit of the cost; None: the only one of the run.
    formats: of FORMATS.
    num_exact: images of the evaluation split on which the files are compared bit for bit (G1); None: all.

  Returns:
    The folder of the export: DIR/export, or DIR/export_TARGET with a target.

  Raises:
    UserError: `num_exact` is below 1, the run cannot be exported, the folder exists, a package is missing, or a file
      cannot be written; nothing is left behind.
    NotCertified: the files do not keep what they promise; nothing is left behind.
  """
  workdir = local_folder(workdir)
  check_formats(formats)
  if num_exact is not None and num_exact < 1:
    raise UserError(f"num_exact is {num_exact}; it must be 1 or more images, or None for all.")
  load_config_of_run(workdir)  # Before the lock, which makes its folder.
  folder = workdir / ("export" if target is None else f"export_{format_target(target)}")
  if folder.exists():
    raise UserError(f"{folder} exists already; move or delete it to export again.")
  # The certificate is about CPUs, whatever else the machine has.
  with folder_lock.hold(workdir), jax.default_device(jax.local_devices(backend="cpu")[0]):
    saved = saved_network.read(workdir, target)
    made = make_program(saved.network, saved.variables, saved.bits, saved.image_shape)
    files, runs = make_files(made, formats)
    proof = certificate.certify(
        made, saved.network, saved.variables, saved.bits, saved.evaluation_images(), runs, num_exact)
    golden, _ = next(saved.evaluation_images())
    with written_together(folder) as partial:
      write_files(
          partial, made, saved.network.layers, files, {"about": saved.facts, "certificate": proof},
          golden[:NUM_GOLDEN_IMAGES])
  return folder


def check_formats(formats: Sequence[str]) -> None:
  """Raises UserError for a format that does not exist, or whose packages are not installed."""
  for name in formats:
    if name not in FORMATS:
      raise UserError(f"--format has {name!r}; allowed are {', '.join(FORMATS)}.")
  packages = [package for package in ("onnx", "onnxruntime") if importlib.util.find_spec(package) is None]
  wanted = [name for name in formats if name in ONNX_FORMATS]
  if wanted and packages:
    raise UserError(
        f"the format {wanted[0]} needs {' and '.join(packages)}: pip install 'metamix_jax[export]', or choose "
        f"--format={PROGRAM},{STABLEHLO}.")


def make_files(
    made: Program, formats: Sequence[str]
) -> tuple[dict[str, Any], dict[str, certificate.Run]]:
  """Returns what the formats make of a program: {file name: bytes, or an ONNX model}, and {name: its run} for G1."""
  files, runs = {}, {}
  if STABLEHLO in formats:
    files["stablehlo.bin"] = stablehlo.serialize(made)
    runs["stablehlo.bin, JAX on CPU"] = _stablehlo_run(made, files["stablehlo.bin"])
  for name in (name for name in ONNX_FORMATS if name in formats):
    from metamix_jax.export import onnx_files  # An optional dependency.
    files[f"{name}.onnx"] = onnx_files.make_model(made, name)
    if name == INTEGER:
      runs[f"{name}.onnx, ONNX Runtime on CPU"] = onnx_files.integer_run(made, files[f"{name}.onnx"])
  return files, runs


def _stablehlo_run(made, file):
  """Runs the file for its logits, and the same program with its codes as outputs."""
  logits, with_codes = stablehlo.load(file), stablehlo.load(stablehlo.serialize(made, with_codes=True))
  return lambda images: (np.asarray(logits(images)), with_codes(images)[1])


@contextlib.contextmanager
def written_together(folder: pathlib.Path):
  """Yields a new folder in a with statement that becomes `folder` behind it, or is removed after an exception.

  Raises:
    UserError: the folder cannot be written.
  """
  partial = folder.with_name(f"{folder.name}.partial")
  try:
    shutil.rmtree(partial, ignore_errors=True)  # Of an export that was killed.
    partial.mkdir()
    yield partial
    partial.rename(folder)
  except BaseException as error:
    shutil.rmtree(partial, ignore_errors=True)
    if isinstance(error, OSError):
      raise UserError(f"{folder} cannot be written: {error.strerror or error}.") from error
    raise


def write_files(
    folder: pathlib.Path, made: Program, layers: Sequence[LayerCost], files: Mapping[str, Any],
    facts: Mapping[str, Any], golden: np.ndarray
) -> None:
  """Writes everything that an export has to a folder.

  Args:
    folder: an existing folder.
    made: the program.
    layers: the network's quantised layers.
    files: of `make_files`.
    facts: {"about", "certificate"}, which go into each file that can hold them.
    golden: images of golden.npz.

  Raises:
    OSError, UserError: a file cannot be written.
  """
  program.write(folder, made, facts)
  program.write_golden(folder, made, golden)
  for name, content in files.items():
    if isinstance(content, bytes):
      (folder / name).write_bytes(content)
    else:
      from metamix_jax.export import onnx_files  # An optional dependency.
      (folder / name).write_bytes(onnx_files.with_facts(content, facts).SerializeToString())
  bits_table.write(folder, made, layers)
  digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
  write_json(folder / "certificate.json", dict(facts) | {"memory": memory.peaks(made), "sha256": digests})


def describe(folder: pathlib.Path) -> str:
  """Returns the certificate of an export in words, the peak memory of its activations, and the sizes of its files."""
  content = json.loads((folder / "certificate.json").read_text(encoding="utf-8"))
  (g1, g2, g3), peaks = (content["certificate"][name] for name in ("g1", "g2", "g3")), content["memory"]
  sizes = "\n".join(f"  {path.name:16} {path.stat().st_size:>11,} bytes" for path in sorted(folder.iterdir()))
  return (
      f"G1: {g1['codes']:,} codes and the logits of {g1['images']} images are equal bit for bit: "
      f"{'; '.join(g1['compared'])}.\n"
      f"G2: {g2['different_codes']} of {g2['codes']:,} codes differ from fake quantisation layer by layer; x / s is "
      f"at most {g2['largest_distance_in_steps']:.2g} steps away.\n"
      f"G3: {g3['equal_predictions']} of {g3['images']} predictions are equal; top-1 {g3['top1']:.2f} %, "
      f"fake-quantised {g3['fake_quantized_top1']:.2f} %.\n"
      f"Activations of one image, at their peak: {peaks['packed_bytes']:,} bytes with packed codes, "
      f"{peaks['byte_codes_bytes']:,} with a byte for each code, {peaks['float32_bytes']:,} in float32.\n"
      f"{sizes}\nWritten: {folder}"
  )
