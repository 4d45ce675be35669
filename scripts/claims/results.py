"""The result files of the ledger, one JSON for a claim and a seed, and the configs of the claims."""

from collections.abc import Mapping
import dataclasses
import datetime
import functools
import json
import pathlib
import subprocess
from typing import Any

import ml_collections

from claims.statements import STATEMENTS
from claims.verdicts import Rule, Statement
from metamix_jax.config_file import flatten, load_config
from metamix_jax.errors import UserError
from metamix_jax.records.files import write_json
from metamix_jax.records.summary import current_versions

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS, RESULTS = ROOT / "configs" / "ledger", ROOT / "docs" / "evidence" / "ledger"
# Runs of the package; a result holds what they change of configs/base.py.
_RUNS = ("run", "pretrained")
# Fields that no number depends on.
_WORDS = ("title", "paper", "minutes")


@dataclasses.dataclass(frozen=True)
class Claim:
  """Holds a claim and the results of its seeds so far.

  Attributes:
    letter: its name.
    config: of configs/ledger.
    results: {seed: contents of its result file}, seeds in the order of the config.
  """

  letter: str
  config: ml_collections.ConfigDict
  results: Mapping[int, Mapping[str, Any]]

  @property
  def statements(self) -> list[Statement]:
    """Returns its statements over the seeds that were run; [] before two were."""
    if len(self.results) < 2:
      return []
    rules = {name: Rule(*numbers) for name, numbers in self.config.rules.items()}
    values = [result["values"] for result in self.results.values()]
    return STATEMENTS[self.letter](values, rules, **self.config.arguments)

  @property
  def verdict(self) -> str | None:
    """Returns the verdict of its first statement; None before all seeds are run."""
    return self.statements[0].verdict(len(self.config.seeds)) if self.statements else None


def claim_configs() -> dict[str, pathlib.Path]:
  """Returns {letter: config file} of all claims."""
  return {path.name[0]: path for path in sorted(CONFIGS.glob("?_*.py"))}


def read_claims(folder: pathlib.Path = RESULTS) -> dict[str, Claim]:
  """Reads all claims and what was run for them, by letter.

  Raises:
    UserError: a result is damaged, or was made with another config.
  """
  return {letter: read_claim(letter, load_config(path), folder) for letter, path in claim_configs().items()}


def read_claim(letter: str, config: ml_collections.ConfigDict, folder: pathlib.Path) -> Claim:
  """Reads the results of one claim; raises UserError as `read_claims` does."""
  results = {}
  for seed in config.seeds:
    path = result_file(folder, letter, seed)
    if path.exists():
      results[seed] = _read(path, config)
  return Claim(letter, config, results)


def result_file(folder: pathlib.Path, letter: str, seed: int) -> pathlib.Path:
  """Returns the result file of a claim and a seed."""
  return folder / f"{letter}_{seed}.json"


def write_result(
    folder: pathlib.Path, letter: str, config: ml_collections.ConfigDict, seed: int, values: Mapping[str, Any],
    seconds: Mapping[str, float], device: str,
) -> None:
  """Writes the result of a claim and a seed.

  Args:
    folder: of the result files.
    letter: of the claim.
    config: of the claim.
    seed: one of its seeds.
    values: what was measured.
    seconds: {run: seconds of computing, over all starts} of the runs that the values are of.
    device: what computed them, in words.
  """
  write_json(result_file(folder, letter, seed), {
      "claim": letter, "seed": seed, "values": values,
      "seconds": {name: round(value, 1) for name, value in seconds.items()},
      "date": datetime.datetime.now(datetime.UTC).date().isoformat(), "commit": commit_of_code(), "device": device,
      "versions": current_versions(),
      "config": settings_of(config)})


def settings_of(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns the fields of a claim's config, and of its runs those that differ from configs/base.py, as in JSON."""
  base = flatten(load_config(ROOT / "configs" / "base.py"))
  settings = {name: value for name, value in config.to_dict().items() if name not in (*_RUNS, *_WORDS)}
  for name in _RUNS:
    settings[name] = {field: value for field, value in flatten(config[name]).items() if value != base[field]}
  return json.loads(json.dumps(settings))


def _read(path, config):
  try:
    result = json.loads(path.read_text(encoding="utf-8"))
    there = result["config"]
    result["values"], result["seconds"].items()
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(
        f"{path} cannot be read ({type(error).__name__}: {error}); delete it to run its seed again.") from error
  here = settings_of(config)
  for name in sorted(there.keys() | here.keys()):
    if there.get(name) != here.get(name):
      raise UserError(
          f"{path} was made with another config: {name} is {there.get(name)!r} there and {here.get(name)!r} here; "
          "restore the config, or delete the file to run its seed again.")
  return result


@functools.cache  # A process goes on with the code that it has loaded.
def commit_of_code() -> str:
  """Returns the commit of the code, with "and changes" where files that make results differ from it."""
  git = lambda *arguments: subprocess.run(
      ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
  changed = git("status", "--porcelain", "--", "metamix_jax", "scripts", "configs").stdout.strip()
  return git("rev-parse", "HEAD").stdout.strip() + (" and changes" if changed else "")
