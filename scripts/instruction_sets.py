#!/usr/bin/env python
"""Measures how a search depends on the machine's rounding: the same meta-state under older instruction sets.

  python scripts/instruction_sets.py runs/ledger/seed_10/reference runs/ledger/seed_11/reference
  python scripts/instruction_sets.py

In a process for each instruction set that XLA may be limited to, bits are searched again on the meta-state of a run,
for its lowest target, and the uniform assignments and the run's selection are evaluated. Only the rounding of float32
differs between the processes. The results are written to docs/evidence/instruction_sets.json, and the table of
docs/evidence.md is made from them. Without a folder, only the table is made again. For CPUs of x86-64; run
`source scripts/cpu_environment.sh` first.
"""

from collections.abc import Mapping, Sequence
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from absl import app, flags
from absl import logging as absl_logging
import numpy as np
import seed_results

from metamix_jax.command_line import exit_on_user_error, flags_parser
from metamix_jax.errors import UserError
from metamix_jax.method.bops import uniform_bits, uniform_widths
from metamix_jax.records.files import replace_between
from metamix_jax.records.paths import PATH_FIELDS, local_folder
from metamix_jax.records.summary import current_versions
from metamix_jax.records.workdir import load_config_of_run
from metamix_jax.reporting import saved_run

ROOT = pathlib.Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "docs" / "evidence" / "instruction_sets.json", ROOT / "docs" / "evidence.md"
BEGIN, END = "<!-- The table below is written by scripts/instruction_sets.py. -->", "<!-- The end of the sets. -->"
# From the newest to the oldest, of XLA's --xla_cpu_max_isa; the first one is what the others are compared with.
INSTRUCTION_SETS = ("AVX512", "AVX2", "AVX", "SSE4_2")
FLAGS = {"AVX512": "avx512f", "AVX2": "avx2", "AVX": "avx", "SSE4_2": "sse4_2"}  # In Linux's list of the processor.
SELECTED, AGAIN = "selected by the run", "searched again"
_MEASURE = flags.DEFINE_string("measure", None, "File for the scores under one instruction set; for the script itself.")


@exit_on_user_error("instruction_sets")
def main(argv):
  """Measures and writes the table; a UserError becomes one sentence and status 2."""
  absl_logging.set_verbosity(absl_logging.FATAL)
  folders = list(map(local_folder, argv[1:]))
  if _MEASURE.value is not None:
    folder, = folders
    measure(folder, pathlib.Path(_MEASURE.value))
    return
  for folder in folders:
    run = saved_run.read(folder)
    if not run.target_results:
      raise UserError(f"{folder} holds a run whose bit selection is not finished; allowed is a finished one.")
    for other in seed_results.read(RESULTS):
      if other["seed"] == run.config["seed"] and other["config"] != settings_of(run):
        raise UserError(
            f"{RESULTS} has the results of a run with this seed and another config than {folder}; give that one, or "
            "delete its entry.")
  text = table(seed_results.measure(RESULTS, folders, compare))
  replace_between(PAGE, BEGIN, END, text)
  print(f"{text}\nWritten: {RESULTS}, {PAGE}")


def measure(workdir: pathlib.Path, file: pathlib.Path) -> None:
  """Searches and evaluates in this process, and writes losses, predictions and bits to a NumPy file.

  Args:
    workdir: DIR of a run with a finished search.
    file: for {assignment: float32 [N] losses in nats}, {"correct/ASSIGNMENT": bool [N]} and {"bits": int [layers]}.
  """
  # Here, because JAX and TensorFlow take seconds to load.
  from search_settings import config_with, search_again

  from metamix_jax.training.judge import evaluation_judge
  from metamix_jax.training.saved_search import load_meta_state, open_run

  run, context = saved_run.read(workdir), open_run(workdir)
  again = search_again(workdir, config_with(load_config_of_run(workdir), (), run.target_results[0].target_gbops))
  layers = context.network.layers
  judge = evaluation_judge(context, load_meta_state(context, workdir))
  searched = [layer.name for layer in layers if layer.searched]
  assignments = {f"all at {bits} bits": uniform_bits(layers, bits) for bits in uniform_widths(layers)}
  assignments |= {SELECTED: run.target_results[0].bits, AGAIN: again}
  arrays = {"bits": np.array([again[name] for name in searched])}
  for words, bits in assignments.items():
    scores = judge.score({name: bits[name] for name in searched})
    arrays |= {words: scores.losses, f"correct/{words}": scores.correct}
  with file.open("wb") as opened:
    np.savez(opened, **arrays)


def compare(workdir: pathlib.Path) -> dict[str, Any]:
  """Measures under every instruction set, each in a process of its own, and returns for JSON what differs.

  Returns:
    {"seed", "target" in GBOPs, "num_images", "processor", "versions", "config" of the run without paths, "sets":
    {instruction set: `difference` from the first one}}.

  Raises:
    UserError: the processor has not all instruction sets, or the measurement fails under one.
  """
  run, measured, processor = saved_run.read(workdir), {}, describe_processor()
  with tempfile.TemporaryDirectory() as folder:
    for name in INSTRUCTION_SETS:
      print(f"{workdir}: {name}", flush=True)
      file = pathlib.Path(folder) / f"{name}.npz"
      environment = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_max_isa={name}"}
      command = [sys.executable, __file__, str(workdir), f"--measure={file}"]
      status = subprocess.run(command, env=environment, check=False).returncode
      if status:
        raise UserError(f"the measurement under {name} ended with status {status}; its own output says why.")
      with np.load(file) as arrays:
        measured[name] = dict(arrays)
  first = measured[INSTRUCTION_SETS[0]]
  return {
      "seed": run.config["seed"], "target": run.target_results[0].target_gbops, "num_images": len(first[SELECTED]),
      "processor": processor, "versions": current_versions(), "config": settings_of(run),
      "sets": {name: difference(arrays, first) for name, arrays in measured.items()}}


def settings_of(run: saved_run.SavedRun) -> dict[str, Any]:
  """Returns the config of a run without its paths, as JSON has it."""
  return json.loads(json.dumps({name: value for name, value in run.config.items() if name not in PATH_FIELDS}))


def describe_processor() -> str:
  """Returns the name of the processor; raises UserError if it has not all instruction sets, which Linux lists."""
  path = pathlib.Path("/proc/cpuinfo")
  text = path.read_text(encoding="utf-8") if path.exists() else ""
  fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
  fields = {name.strip(): value.strip() for name, value in fields.items()}
  missing = set(FLAGS.values()) - set(fields.get("flags", "").split())
  if missing:
    raise UserError(
        f"the processor has no {', '.join(sorted(missing))} in {path}; all of {', '.join(FLAGS)} are needed.")
  return fields["model name"]


def difference(arrays: Mapping[str, np.ndarray], first: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Compares what `measure` has written under two instruction sets.

  Returns:
    {"equal_bits": layers whose searched bits are equal, "layers": their number, "assignments": {assignment: mean
    "loss" in nats and "top1" in percent under the first of the two; of the losses less those under the other one:
    "mean" and standard deviation "spread" over the images; "predictions": percent of the images of which one alone has
    the right class}}; "searched again" is of other bits where the searches differ.
  """
  assignments = {}
  for words in first:
    if words == "bits" or words.startswith("correct/"):
      continue
    differences = arrays[words].astype(np.float64) - first[words]
    assignments[words] = {
        "loss": float(np.mean(arrays[words], dtype=np.float64)),
        "top1": 100 * float(np.mean(arrays[f"correct/{words}"])),
        "mean": float(differences.mean()), "spread": float(differences.std()),
        "predictions": 100 * float(np.mean(arrays[f"correct/{words}"] != first[f"correct/{words}"]))}
  return {
      "equal_bits": int(np.sum(arrays["bits"] == first["bits"])), "layers": len(first["bits"]),
      "assignments": assignments}


def table(entries: Sequence[Mapping[str, Any]]) -> str:
  """Returns the results as a table in Markdown: means over the runs, and the largest difference of a mean loss."""
  first, *others = entries[0]["sets"]
  lines = [
      f"| assignment | under | loss less that under {first}: mean, largest | standard deviation over the images | "
      "top-1 less that: mean | images that only one of the two gets right |", "|---|---|---|---|---|---|"]
  for words in entries[0]["sets"][first]["assignments"]:
    for name in others:
      here = [entry["sets"][name]["assignments"][words] for entry in entries]
      there = [entry["sets"][first]["assignments"][words] for entry in entries]
      mean = lambda field, here=here: statistics.fmean(values[field] for values in here)
      largest = max((values["mean"] for values in here), key=abs)
      points = statistics.fmean(a["top1"] - b["top1"] for a, b in zip(here, there, strict=True))
      lines.append(f"| {words} | {name} | {mean('mean'):+.4f}, {largest:+.4f} | {mean('spread'):.3f} | {points:+.2f} | "
                   f"{mean('predictions'):.1f} % |")
  for name in others:
    equal = ", ".join(f"{entry['sets'][name]['equal_bits']} of {entry['sets'][name]['layers']}" for entry in entries)
    lines.append(f"\nLayers in which the search under {name} selects the bits of {first}, by run: {equal}.")
  return "\n".join(lines) + "\n"


if __name__ == "__main__":
  app.run(main, flags_parser=flags_parser("instruction_sets"))
