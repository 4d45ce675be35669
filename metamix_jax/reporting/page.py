"""DIR/report/report.html: a run's figures and tables on one page that needs no other file and no network."""

import base64
from collections.abc import Iterable, Sequence
import html
import json
import pathlib

from metamix_jax.method.bops import candidate_widths, cost_name
from metamix_jax.records.files import write_text
from metamix_jax.records.names import format_target
from metamix_jax.reporting import saved_run, tables
from metamix_jax.reporting.figures import figures_of
from metamix_jax.reporting.search_quality import interactive_figure
from metamix_jax.reporting.style import save

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; max-width: 1100px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; margin-bottom: 0.2em; } h2 { font-size: 1.2em; margin-top: 2em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.2em 0.8em; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child, table.words th, table.words td { text-align: left; }
td:first-child { white-space: nowrap; }
thead th { border-bottom: 2px solid #767676; vertical-align: bottom; }
tr.reference td { color: #595959; }
figure { margin: 1.5em 0; break-inside: avoid; } figure img, figure svg { max-width: 100%; height: auto; }
figcaption, p.note { color: #595959; max-width: 75ch; }
@media print {
  body { max-width: none; margin: 0; font-size: 10pt; }
  figure img { max-height: 24cm; } tr { break-inside: avoid; }
}
"""
_BOPS = (
    "Cost: multiply-accumulates × weight bits × activation bits of one image, over all convolutions and dense layers, "
    "in 10<sup>9</sup>.")
_EXPLANATION = (
    "Average bits: over the activation elements that the layers read. Accuracy: on the evaluation "
    "split; straight from the meta-state nothing was trained for these bits, only batch-norm statistics were "
    "re-estimated. Grey rows are references.")
_NOTHING, _HYPHEN = "–", "\N{NON-BREAKING HYPHEN}"


def write(folder: pathlib.Path) -> pathlib.Path:
  """Writes the PNGs and the page of a run, finished or still going, from its files alone.

  Args:
    folder: DIR.

  Returns:
    The path of the page, DIR/report/report.html.

  Raises:
    UserError: the folder does not hold a run, one of its files is damaged, or a file cannot be written.
  """
  run = saved_run.read(folder)
  page = folder / "report" / "report.html"
  figures = []
  for name, caption, draw in figures_of(run):
    path = folder / "report" / f"{name}.png"
    if save(draw, path):
      drawing = interactive_figure(run) if name == "search_quality" else _image(path, caption)
      figures.append(_figure(drawing, f"{caption} ({path.name})"))
  write_text(page, _page(run, figures))
  return page


def _page(run, figures):
  title = html.escape(f"MetaMix: {run.config['network.name']} on {run.config['data.name']}")
  fields = [(name, json.dumps(value)) for name, value in run.config.items()]
  versions = run.summary.get("versions", {}).items() if run.summary else []
  return "\n".join([
      "<!DOCTYPE html>", '<html lang="en">', "<head>", '<meta charset="utf-8">', f"<title>{title}</title>",
      f"<style>{_STYLE}</style>", "</head>", "<body>", f"<h1>{title}</h1>",
      f"<p>{html.escape(_status(run))}</p>",
      "<h2>What was selected, at what cost, with what accuracy</h2>", _selection_table(run),
      f"<p class='note'>{_cost_in_words(run)} {_EXPLANATION}</p>",
      "<h2>How good the search is</h2>", _search_quality_table(run),
      "<h2>Phases</h2>", _table(["phase", "state"], run.phase_states.items(), kind="words"),
      "<h2>Figures</h2>", *(figures or ["<p>There is nothing to draw yet.</p>"]),
      "<h2>Bits of every layer</h2>", _layer_table(run),
      "<h2>How it was made</h2>", _table(["field of the config", "value"], fields, kind="words"),
      _table(["package", "version"], versions, kind="words") if versions else "", "</body>", "</html>", ""])


def _cost_in_words(run):
  if run.layers[0].cost is None:
    return _BOPS
  return html.escape(
      f"Cost: {cost_name(run.layers)} of one image in {run.unit}, the sum over the layers, from config.arch.cost = "
      f"{run.config['arch.cost']}.")


def _status(run):
  unfinished = [f"{name} {state}" for name, state in run.phase_states.items() if not state.startswith("finished")]
  if run.summary and not unfinished:
    return f"The run is finished. Seed {run.config['seed']}."
  return (f"The run is not finished: {(unfinished or ['its summary is missing'])[0]}. This page shows what is there so "
          f"far; scripts/report.py {run.folder} makes it again. Seed {run.config['seed']}.")


def _selection_table(run):
  """Returns a table with one row for each assignment: targets first, then references."""
  widths, rows = candidate_widths(run.layers), []
  searched = [layer.name for layer in run.layers if layer.searched]

  def layers_at(bits):
    return " / ".join(str(sum(value == width for value in bits)) for width in widths)

  results = [(", ".join(["selected bits", *map(str, result.limits)]), result) for result in run.target_results]
  results += [(f"bits {chosen.label}", chosen.result) for chosen in run.chosen_targets]
  for label, result in results:
    missed = "" if result.target_met else " (missed)"
    rows.append([label, format_target(result.target_gbops) + missed, f"{result.gbops:.6g}",
                 f"{result.average_activation_bits:.2f}", layers_at([result.bits[name] for name in searched]),
                 *map(_percent, (result.meta_state_top1, result.stage_a_top1, result.final_top1))])
  for result in run.uniform_results:
    rows.append([f"all searched layers at {result.bits} bits", _NOTHING, f"{result.gbops:.6g}",
                 f"{result.average_activation_bits:.2f}", layers_at([result.bits] * len(searched)),
                 _percent(result.top1), _NOTHING, _NOTHING])
  rows.append(["full precision", *[_NOTHING] * 6, _percent(run.full_precision_top1)])
  header = ["assignment", f"target [{run.unit}]", f"cost [{run.unit}]", "average bits",
            f"layers at {' / '.join(map(str, widths))} bits", "top-1 straight from the meta-state [%]",
            "top-1 after stage A [%]", "final top-1 [%]"]
  targets = ", ".join(map(format_target, run.targets))
  note = "" if run.target_results else f"<p>No bits are selected yet. Target: {targets} {html.escape(run.unit)}.</p>\n"
  return note + _table(header, rows, num_references=len(rows) - len(results))


def _search_quality_table(run):
  """Returns the verdict of each target and a table with one row for each assignment, the selection first."""
  quality = run.search_quality
  if quality is None:
    why = ("report/search_quality.json is of an earlier selection." if run.search_quality_is_outdated
           else "Not measured.")
    return (f"<p>{why} scripts/search_quality.py {html.escape(str(run.folder))} compares the selection with "
            "random and other assignments of the same cost.</p>")
  verdicts = [f"<li>{html.escape(f'{format_target(target.target_gbops)} {run.unit}: {target.verdict}')}</li>"
              for target in quality.targets]
  note = (f"<p class='note'>Straight from the meta-state, on {quality.num_images:,} images; random assignments and "
          f"the selection beside them on {quality.num_random_images:,} of these. Difference: loss of the "
          "selection minus the loss of the assignment, with its 95 % interval; below 0 the selection is better.</p>")
  return "\n".join(["<ul>", *verdicts, "</ul>", _table(
      tables.search_quality_header(run.unit), tables.search_quality_rows(quality), kind="numbers"), note])


def _layer_table(run):
  """Returns a table with one row for each layer: selected bits of its input, and of its kernel where some are searched.
  """
  of_kernels = any(layer.candidate_weight_bits for layer in run.layers)
  results = [*run.target_results, *(chosen.result for chosen in run.chosen_targets)]
  header = ["layer", "kind", "multiply-accumulates", "weight bits"] + [
      f"{of}bits at {format_target(result.target_gbops)} {run.unit}" for result in results
      for of in (("", "weight ") if of_kernels else ("",))]
  assignments = [result.all_bits for result in results]

  def selected(layer, bits):
    return [bits[layer.name], *([bits.get(layer.kernel_name, layer.weight_bits)] if of_kernels else [])]

  return _table(header, (
      [layer.name + _note(layer), layer.kind, f"{layer.macs:,}",
       " / ".join(map(str, layer.candidate_weight_bits)) or layer.weight_bits] + [
           cell for bits in assignments for cell in selected(layer, bits)] for layer in run.layers))


def _note(layer):
  return "" if layer.searched else " (not searched)" if layer.quantized else " (full precision)"


def _table(header: Sequence[str], rows: Iterable[Sequence], num_references: int = 0, kind: str = "numbers") -> str:
  """Returns a table of "numbers" or "words"; its last `num_references` rows are references."""
  rows = list(rows)
  titles = "".join(f"<th>{html.escape(cell).replace('-', _HYPHEN)}</th>" for cell in header)
  lines = [f'<table class="{kind}">', f"<thead><tr>{titles}</tr></thead>"]
  for number, row in enumerate(rows):
    reference = ' class="reference"' if number >= len(rows) - num_references else ""
    lines.append(f"<tr{reference}>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>")
  return "\n".join([*lines, "</table>"])


def _image(path, caption):
  data = base64.b64encode(path.read_bytes()).decode("ascii")
  description = html.escape(f"{path.stem.replace('_', ' ')}: {caption}", quote=True)
  return f'<img src="data:image/png;base64,{data}" alt="{description}">'


def _figure(drawing, caption):
  return f"<figure>{drawing}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _percent(top1):
  return _NOTHING if top1 is None else f"{top1:.2f}"
