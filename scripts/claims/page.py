"""docs/ledger.md and its figure, made from the result files alone."""

from collections.abc import Mapping, Sequence
import pathlib
import statistics

from claims import figure
from claims.results import ROOT, Claim
from claims.statements import search_seconds
from claims.verdicts import Statement
from metamix_jax.errors import UserError
from metamix_jax.records.files import write_text

PAGE = ROOT / "docs" / "ledger.md"
NOT_RUN = "not run yet"
# Of the table of commands, and of `python scripts/ledger.py`: a claim comes after those whose runs it reads;
# i and o share no search with the others.
ORDER = "ajhbkdefgcmlnio"


def write(claims: Mapping[str, Claim], page: pathlib.Path = PAGE) -> list[pathlib.Path]:
  """Writes the page, and its figure beside it once claim c has results; returns their paths."""
  drawn = page.parent / "images" / "ledger_running_variance.png"
  has_figure = figure.write(claims["c"], drawn)
  write_text(page, compose(page.read_text(encoding="utf-8"), claims, has_figure))
  return [page, *([drawn] if has_figure else [])]


def compose(text: str, claims: Mapping[str, Claim], has_figure: bool) -> str:
  """Returns the page with its three parts written again: "verdicts", "commands" and "claims".

  Args:
    text: of the page as it is; a part stands between its two comments, and what stands elsewhere is kept.
    claims: by letter.
    has_figure: whether the figure of claim c exists.
  """
  parts = {
      "verdicts": _verdicts(claims), "commands": _commands(claims),
      "claims": "\n".join(_section(claim, has_figure) for claim in claims.values())}
  for name, part in parts.items():
    before, begin, rest = text.partition(f"<!-- The {name} below are written by scripts/ledger.py. -->")
    _, end, after = rest.partition(f"<!-- The end of the {name}. -->")
    if not begin or not end:
      raise UserError(f"{PAGE} has lost the comments around its {name}; restore the page.")
    text = f"{before}{begin}\n\n{part}\n{end}{after}"
  return text


def _verdicts(claims):
  lines = ["| | claim | in the paper | verdict | mean difference, 95 % interval | seeds |", "|---|---|---|---|---|---|"]
  for letter, claim in claims.items():
    statements, run = claim.statements, len(claim.results)
    verdict = claim.verdict or (NOT_RUN if run == 0 else f"{run} of {len(claim.config.seeds)} seeds are run")
    lines.append(
        f"| [{letter}](#claim-{letter}) | {claim.config.title} | {claim.config.paper} | {verdict} | "
        f"{_numbers(statements[0]) if statements else ''} | {run} of {len(claim.config.seeds)} |")
  return "\n".join(lines) + "\n"


def _commands(claims):
  lines = ["| command | minutes, estimated | minutes, measured |", "|---|---|---|"]
  made, total, all_run = set(), 0.0, True
  for letter in ORDER:
    claim = claims[letter]
    seconds = 0.0
    for seed, result in claim.results.items():
      for name, value in result["seconds"].items():
        key = (name if name == "pretrained" else seed, name)
        seconds += 0 if key in made else value
        made.add(key)
    total += seconds
    measured = f"{seconds / 60:.0f}" if claim.results else NOT_RUN
    complete = len(claim.results) == len(claim.config.seeds)
    all_run &= complete
    if claim.results and not complete:
      measured += f" for {len(claim.results)} of {len(claim.config.seeds)} seeds"
    lines.append(f"| `python scripts/ledger.py --claim={letter}` | {claim.config.minutes} | {measured} |")
  estimated = sum(claim.config.minutes for claim in claims.values())
  lines.append(f"| all | {estimated} | {f'{total / 60:.0f}' if all_run else ''} |")
  return "\n".join(lines) + "\n"


def _section(claim, has_figure):
  lines = [f"## Claim {claim.letter}\n", f"{claim.config.title[0].upper()}{claim.config.title[1:]}.\n"]
  if not claim.results:
    return "\n".join([*lines, f"{NOT_RUN.capitalize()}.\n"])
  statements = claim.statements
  if statements:
    lines += ["| statement | difference in | mean, 95 % interval | by seed | holds above, fails below | verdict |",
              "|---|---|---|---|---|---|"]
  for statement in statements:
    verdict = statement.verdict(len(claim.config.seeds)) or "not all seeds are run"
    differences = ", ".join(f"{value:+.3g}" for value in statement.differences)
    lines.append(
        f"| {statement.words} | {statement.unit} | {_numbers(statement)} | {differences} | "
        f"{statement.rule.holds_above:g}, {statement.rule.fails_below:g} | {verdict} |")
  lines.append("")
  lines += _arms(claim)
  if claim.letter == "g":
    lines += _times(claim)
  if claim.letter == "c" and has_figure:
    lines.append("![Running variance of depthwise layers over the steps](images/ledger_running_variance.png)\n")
  lines += _provenance(claim)
  return "\n".join(lines)


def _arms(claim) -> Sequence[str]:
  """Returns a table of everything that was trained: its cost and top-1 by seed."""
  arms = {}
  for result in claim.results.values():
    for name, arm in result["values"].items():
      if isinstance(arm, Mapping) and "top1" in arm:
        arms.setdefault(name.replace("_", " "), []).append((arm["gbops"], arm["top1"]))
  if not arms:
    return []
  lines = ["| trained | GBOPs | top-1, mean | top-1 by seed |", "|---|---|---|---|"]
  for name, found in arms.items():
    costs, top1s = zip(*found, strict=True)
    low, high = min(costs), max(costs)
    cost = f"{low:.4f}" if f"{low:.4f}" == f"{high:.4f}" else f"{low:.4f} to {high:.4f}"
    lines.append(
        f"| {name} | {cost} | {statistics.fmean(top1s):.2f} | {', '.join(f'{top1:.2f}' for top1 in top1s)} |")
  return [*lines, ""]


def _times(claim) -> Sequence[str]:
  """Returns what the steps of claim g take, as means over the seeds."""
  values = [result["values"] for result in claim.results.values()]
  lines = ["| step | steps | milliseconds of one |", "|---|---|---|"]
  for name, number in values[0]["steps"].items():
    milliseconds = 1000 * statistics.fmean(value["seconds_of_a_step"][name] for value in values)
    lines.append(f"| {name.replace('_', ' ')} | {number} | {milliseconds:.0f} |")
  method, together = (statistics.fmean(parts) for parts in zip(*map(search_seconds, values), strict=True))
  return [*lines, "", f"The method's search takes {method:.0f} s, the search of both together {together:.0f} s.\n"]


def _provenance(claim) -> Sequence[str]:
  dates = sorted({result["date"] for result in claim.results.values()})
  commits = sorted({_short(result["commit"]) for result in claim.results.values()})
  versions = sorted({f"JAX {result['versions']['jax']}, Python {result['versions']['python']}"
                     for result in claim.results.values()})
  seeds_on: dict[str, list[str]] = {}
  for seed, result in claim.results.items():
    seeds_on.setdefault(result["device"], []).append(str(seed))
  devices = [f"{device} (seeds {', '.join(seeds)})" for device, seeds in seeds_on.items()]
  return [f"Run {' to '.join(dict.fromkeys((dates[0], dates[-1])))} on {'; '.join(devices)}, with "
          f"{'; '.join(versions)}, at {', '.join(commits)}.\n"]


def _numbers(statement: Statement) -> str:
  low, high = statement.interval
  return f"{statement.mean:+.3g} ({low:+.3g} to {high:+.3g}) {statement.unit}"


def _short(commit):
  number, _, rest = commit.partition(" ")
  return f"{number[:12]} {rest}".strip()

