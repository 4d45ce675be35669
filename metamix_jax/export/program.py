"""Writes the files of a program: program.json, program.npz and golden.npz (docs/export.md has every byte)."""

from collections.abc import Mapping
import json
import pathlib
import shutil
from typing import Any

import numpy as np

from metamix_jax.export import evaluator
from metamix_jax.export.evaluator import FORMAT, VERSION, Program


def write(folder: pathlib.Path, program: Program, about: Mapping[str, Any]) -> None:
  """Writes program.json and program.npz, and evaluator.py, which reads them.

  Args:
    folder: an existing folder.
    program: the program.
    about: further fields of program.json: facts of the run, the certificate.

  Raises:
    OSError: a file cannot be written.
  """
  arrays = dict(program.arrays)
  for node in program.quantized:
    arrays[node["kernel"]] = evaluator.pack(arrays[node["kernel"]], node["weight_bits"])
  np.savez_compressed(folder / "program.npz", allow_pickle=False, **arrays)
  header = {"format": FORMAT, "version": VERSION, "image_shape": list(program.image_shape)} | dict(about)
  fields = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in header.items()]
  nodes = ",\n".join(f"    {json.dumps(node)}" for node in program.nodes)  # One line for each operation.
  (folder / "program.json").write_text(
      "{\n" + ",\n".join([*fields, f'  "nodes": [\n{nodes}\n  ]']) + "\n}\n", encoding="utf-8")
  shutil.copyfile(evaluator.__file__, folder / "evaluator.py")


def write_golden(folder: pathlib.Path, program: Program, images: np.ndarray) -> None:
  """Writes golden.npz: images [N, H, W, C], codes of every layer's input and logits.

  Raises:
    OSError: the file cannot be written.
  """
  result = evaluator.evaluate(program, images)
  # Unsigned codes reach 255, signed ones -127.
  codes = {f"codes/{layer}": values.astype(np.int8 if values.min() < 0 else np.uint8)
           for layer, values in result.codes.items()}
  np.savez_compressed(
      folder / "golden.npz", allow_pickle=False, images=images, logits=result.logits, **codes)
