#!/usr/bin/env python
"""Runs the ledger of the paper's claims, and writes its page, docs/ledger.md.

  python scripts/ledger.py                            all claims and seeds that have no result yet
  python scripts/ledger.py --claim=a,h --seed=10,11   some of them
  python scripts/ledger.py --claim=none               the page alone, from the results that are there

Each claim and seed leaves a result in docs/evidence/ledger/. Results that are there are not made again, so parts of
different days add up. The runs are kept in --runs, and several claims share some of them; keep the folder until all
claims are run. SIGTERM, SIGINT or SIGHUP saves and stops with status 75; the same command continues. configs/ledger has
the sizes and the rules. On CPUs, run `source scripts/cpu_environment.sh` first.
"""

from collections.abc import Sequence
import os
import pathlib
import sys

from absl import app, flags
from absl import logging as absl_logging
from claims import page, results

from metamix_jax.command_line import define_path, exit_on_user_error, flags_parser
from metamix_jax.config_file import load_config
from metamix_jax.errors import UserError
from metamix_jax.records import folder_lock
from metamix_jax.records.files import check_writable
from metamix_jax.records.interruption import EXIT_INTERRUPTED, Interrupted, StopRequest
from metamix_jax.records.progress import log_to_terminal

_CLAIM = flags.DEFINE_list("claim", list(page.ORDER), "Letters of the claims to run, or none.")
_SEED = flags.DEFINE_list("seed", None, "Seeds to run, of the claim's config; by default all.")
_RUNS = define_path("runs", pathlib.Path("runs", "ledger"), "Folder of the runs.")


@exit_on_user_error("ledger")
def main(argv):
  """Runs what is asked for and writes the page; a UserError becomes one sentence and status 2."""
  if len(argv) > 1:
    raise UserError(f"unknown argument {argv[1]!r}; allowed are --claim, --seed and --runs.")
  letters = [] if _CLAIM.value == ["none"] else _CLAIM.value
  seeds = None if _SEED.value is None else _numbers(_SEED.value)
  configs = results.claim_configs()
  for letter in letters:
    if letter not in configs:
      raise UserError(f"--claim names {letter!r}; allowed are {', '.join(configs)}, or none alone.")
    known = load_config(configs[letter]).seeds
    for seed in seeds or ():
      if seed not in known:
        raise UserError(f"--seed names {seed}; claim {letter} has the seeds {', '.join(map(str, known))}.")
  for path in (results.RESULTS / "a_result.json", page.PAGE):  # Written after hours.
    check_writable(path)
  results.commit_of_code()  # Of the code that is loaded here, whatever is committed meanwhile.
  absl_logging.set_verbosity(absl_logging.FATAL)
  log_to_terminal()
  stop_request = StopRequest()
  stop_request.listen_for_signals()
  results.read_claims()  # A result that does not fit its config is found before hours of work.
  try:
    for letter in letters:
      run_claim(letter, load_config(configs[letter]), seeds, _RUNS.value, results.RESULTS, stop_request)
  except Interrupted as interruption:
    print(f"ledger: {interruption}; the same command continues.", file=sys.stderr)
    sys.exit(EXIT_INTERRUPTED)
  finally:  # Seeds that were finished before an interruption or a mistake are on the page.
    print(f"Written: {', '.join(map(str, page.write(results.read_claims())))}")


def run_claim(
    letter: str, config, seeds: Sequence[int] | None, runs: pathlib.Path, folder: pathlib.Path,
    stop_request: StopRequest
) -> None:
  """Runs the seeds of a claim that have no result yet, and writes their results.

  Args:
    letter: of the claim.
    config: of the claim.
    seeds: the seeds to run; None: all.
    runs: folder of the runs.
    folder: of the result files.
    stop_request: read after each step.

  Raises:
    Interrupted: it was asked to stop, and everything is saved.
    UserError: a run cannot be made.
  """
  for seed in config.seeds if seeds is None else seeds:
    if results.result_file(folder, letter, seed).exists():
      continue
    print(f"ledger: claim {letter}, seed {seed}", flush=True)
    _measure(letter, config, seed, runs, folder, stop_request)


def _measure(letter, config, seed, runs, folder, stop_request):
  # Here, because JAX and TensorFlow take seconds to load.
  from claims.measurements import MEASUREMENTS
  from claims.runs import SeedRuns
  import jax

  from metamix_jax.data.cores import available_cores

  if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    jax.config.update("jax_compilation_cache_dir", str((runs / "compilation_cache").absolute()))
  with folder_lock.hold(runs):
    seed_runs = SeedRuns(config, seed, runs, stop_request)
    values = MEASUREMENTS[letter](seed_runs)
  device = f"{jax.device_count()} x {jax.devices()[0].device_kind}, {available_cores()} cores"
  results.write_result(folder, letter, config, seed, values, seed_runs.seconds, device)
  jax.clear_caches()  # The programs of a seed would fill the memory with those of the next.


def _numbers(texts):
  try:
    return [int(text) for text in texts]
  except ValueError:
    raise UserError(f"--seed is {','.join(texts)!r}; it must be whole numbers, with commas between them.") from None


if __name__ == "__main__":
  app.run(main, flags_parser=flags_parser("ledger"))
