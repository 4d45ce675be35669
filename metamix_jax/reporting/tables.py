"""Tables for a terminal: the summary of a run, and the quality of its search."""

from metamix_jax.records.names import format_target
from metamix_jax.records.search_quality import AssignmentScore, SearchQuality
from metamix_jax.reporting.saved_run import SavedRun

_COMMAND = "scripts/search_quality.py"


def format_table(run: SavedRun) -> str:
  """Returns the results of a finished run as text: the layers of a single target, or the curve of several.

  Raises:
    ValueError: the run is not finished.
  """
  if run.summary is None:
    raise ValueError(f"{run.folder} holds a run that is not finished; it has no summary.")
  lines = _format_target(run) if len(run.targets) == 1 else []
  if len(run.targets) > 1 or run.chosen_targets:
    lines += format_curve(run)
  if run.summary["skipped_records"]:
    lines += [
        "", f"{run.summary['skipped_records']} records could not be decoded and were left out; the log names them"]
  lines += ["", *_search_verdicts(run)]
  seconds = run.summary["seconds"]
  times = ", ".join(f"{name} {value:.0f}" for name, value in seconds.items())
  lines += ["", f"Seconds: {times}; {sum(seconds.values()):.0f} in all"]
  return "\n".join(lines)


def _search_verdicts(run):
  """Returns a line for each target that says how good its selection is; one line where it was not measured."""
  if run.search_quality_is_outdated:
    return [f"report/search_quality.json is of an earlier selection; to measure it again: {_COMMAND} {run.folder}"]
  if run.search_quality is None:
    return [f"How good the search is was not measured: {_COMMAND} {run.folder}"]
  return [f"Search for {format_target(target.target_gbops)} {run.unit}: the selection {_sentence(target)}"
          for target in run.search_quality.targets]


def format_curve(run: SavedRun) -> list[str]:
  """Returns the lines of the curve: searched and chosen targets and uniform bit-widths in the order of their cost."""
  lines = [
      "", f"Accuracy and cost: {run.unit} of one image; top-1 in %, from the meta-state and after each stage",
      f"  {'target':<14} {'selected':>10} {'average bits':>13} {'meta-state':>11} {'stage A':>8} {'final':>7}"]
  uniform = [
      (result.gbops, f"all at {result.bits} bits", None, result.top1, None, None, "")
      for result in run.uniform_results]
  targets = [
      (result.gbops, format_target(result.target_gbops), result.average_activation_bits, result.meta_state_top1,
       result.stage_a_top1, result.final_top1,
       "".join(f"  {limit}" for limit in result.limits) + ("" if result.target_met else "  TARGET MISSED"))
      for result in run.target_results]
  chosen = [
      (result.gbops, format_target(result.target_gbops), result.average_activation_bits, result.meta_state_top1, None,
       None, f"  {label}" + ("" if result.target_met else ", TARGET MISSED"))
      for result, label in ((other.result, other.label) for other in run.chosen_targets)]
  for cost, name, bits, meta_state, stage_a, final, note in sorted(
      uniform + targets + chosen, key=lambda row: row[0]):
    cells = " ".join([
        f"{cost:>10.6f}", _cell(bits, 13, 3), _cell(meta_state, 11, 2), _cell(stage_a, 8, 2), _cell(final, 7, 2)])
    lines.append(f"  {name:<14} {cells}".rstrip() + note)
  if run.full_precision_top1 is not None:
    lines.append(f"  full precision {run.full_precision_top1:>36.2f}")
  return lines


def _cell(value, width, digits):
  return " " * width if value is None else f"{value:>{width}.{digits}f}"


def _format_target(run):
  """Returns the lines of the only target: its layers, cost and top-1s."""
  result, = run.target_results
  of_kernels = any(layer.candidate_weight_bits for layer in result.layers)
  lines = ["", "Bits selected for each layer's input activations" + (" and kernel" if of_kernels else "")]
  lines += [f"  {name:<24} {bits}" for name, bits in result.bits.items()]
  lines += ["", f"Cost of one image [{run.unit}]"]
  lines += [f"  all searched layers at {uniform.bits} bits {uniform.gbops:>12.6f}" for uniform in run.uniform_results]
  lines.append(f"  target                        {result.target_gbops:>12.6f}")
  lines.append(f"  selected                      {result.gbops:>12.6f}")
  lines += [f"  further limit, of the selected bits: {limit}" for limit in result.limits]
  changed = ", ".join(f"{name} {before} -> {after}" for name, (before, after) in result.changed.items())
  if changed:
    lines.append(f"  argmax alpha cost {result.most_probable_gbops:.6f}; settled at the target by {changed}")
  if not result.target_met:
    lines.append(
        f"  TARGET MISSED: the selection is over the target, or more than {100 * result.tolerance:g} % below it")
  lines.append(f"  average activation bits       {result.average_activation_bits:>12.3f}")
  return lines + _format_top1s(run, result)


def _format_top1s(run, result):
  """Returns the lines of the top-1s of the run and of its only target."""
  lines = ["", "Top-1 [%]", f"  full precision                        {run.full_precision_top1:>7.2f}"]
  lines += [
      f"  meta-state, all at {uniform.bits} bits             {uniform.top1:>7.2f}"
      f"  ({uniform.shared_top1:.2f} with shared batch-norm statistics)" for uniform in run.uniform_results]
  lines.append(f"  selected bits, before weight training {result.meta_state_top1:>7.2f}")
  if result.final_top1 is not None:
    lines.append(f"  after stage A (activations quantised) {result.stage_a_top1:>7.2f}")
    lines.append(f"  final (weights quantised too)         {result.final_top1:>7.2f}")
  return lines


def search_quality_header(unit: str) -> tuple[str, ...]:
  """Returns the titles of the columns of `search_quality_rows`, with the unit of the cost."""
  return f"target [{unit}]", "assignment", f"cost [{unit}]", "loss [nats]", "top-1 [%]", "difference [nats]"


def search_quality_rows(quality: SearchQuality) -> list[tuple[str, ...]]:
  """Returns rows under `search_quality_header`: each target's selection and baselines, then the uniform bit-widths."""
  rows = []
  for target in quality.targets:
    name = format_target(target.target_gbops)
    by_loss = sorted(target.random, key=lambda score: score.loss)
    rows += [
        _quality_row(name, "selected", target.selected),
        _quality_row(name, "selected, beside random", target.selected_beside_random),
        _quality_row(name, "best random", by_loss[0]),
        _quality_row(name, "median random", by_loss[len(by_loss) // 2])]
    for comparison in target.comparisons:
      low, high = comparison.interval
      rows.append(_quality_row(
          name, comparison.name, comparison.score, f"{comparison.difference:+.4f} ({low:+.4f} to {high:+.4f})"))
  return rows + [
      _quality_row("", f"all at {bits} bits", score) for bits, score in sorted(quality.uniform.items())]


def _quality_row(target: str, assignment: str, score: AssignmentScore, difference: str = "") -> tuple[str, ...]:
  return target, assignment, f"{score.gbops:.6f}", f"{score.loss:.4f}", f"{score.top1:.2f}", difference


def format_search_quality(run: SavedRun) -> str:
  """Returns the quality of the search as text: the verdict of each target, and a table.

  Raises:
    ValueError: it was not measured.
  """
  quality = run.search_quality
  if quality is None:
    raise ValueError(f"the search quality of {run.folder} was not measured.")
  rows = [search_quality_header(run.unit), *search_quality_rows(quality)]
  widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
  lines = ["", f"Quality of the search, straight from the meta-state, on {quality.num_images} images"]
  for target, assignment, *numbers in rows:
    cells = [f"{target:<{widths[0]}}", f"{assignment:<{widths[1]}}"] + [
        f"{number:>{width}}" for number, width in zip(numbers, widths[2:], strict=True)]
    lines.append(f"  {'  '.join(cells)}".rstrip())
  lines += [
      "", f"Random assignments, and the selection beside them: on {quality.num_random_images} of the images",
      "Difference: loss of the selection minus loss of the assignment, with its 95 % interval"]
  lines += [
      f"{format_target(target.target_gbops)} {run.unit}: the selection {_sentence(target)}"
      for target in quality.targets]
  times = ", ".join(f"{name} {seconds:.0f}" for name, seconds in quality.seconds.items())
  return "\n".join([*lines, f"Seconds: {times}; {sum(quality.seconds.values()):.0f} in all"])


def _sentence(target):
  return target.verdict if target.better_than_chance else f"is {target.verdict}"
