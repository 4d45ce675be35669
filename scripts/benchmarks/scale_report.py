"""Tables and the plot of weak_scaling.py, from the compiler's figures and the model of the chip."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib import ticker
from matplotlib.figure import Figure
from scale_model import (
  CHIP_MEMORY_BYTES,
  CHIPS,
  HOP_SECONDS,
  LINK_BYTES,
  Program,
  Times,
  at_images,
  times,
  times_of_all,
)

from metamix_jax.errors import UserError
from metamix_jax.reporting import style

# The programs of an iteration after the teacher's, in order.
ITERATIONS = {"bit selection": ("bit-meta", "bit-search"), "weight training": ("stage B",)}
TEACHER = "teacher"
COMPILED_STEPS = (TEACHER, *(name for names in ITERATIONS.values() for name in names))
SMALL = LINK_BYTES * HOP_SECONDS[0]  # Bytes whose way over a link takes less than a hop.
# {step: {images on a chip: program}}.
Programs = Mapping[str, Mapping[int, Program]]


class Iteration(NamedTuple):
  """Holds the seconds of an iteration: of the teacher, and of the steps of the network after it."""

  teacher: float
  steps: Times

  @property
  def total(self) -> float:
    """All seconds of the iteration."""
    return self.teacher + self.steps.total

  @property
  def limit(self) -> str:
    """The part that takes longest."""
    return TEACHER if self.teacher > max(self.steps.busy, self.steps.hops, self.steps.links) else self.steps.limit


def programs_of(figures: Mapping[str, Any]) -> dict[str, dict[int, Program]]:
  """Returns the programs of saved figures by step and images on a chip; raises KeyError or TypeError if damaged."""
  return {
      step: {int(images): Program(
          flops=entry["flops"] * entry["turns"], bytes=entry["bytes"] * entry["turns"], passes=entry["passes"],
          memory=entry["memory"], all_reduces=sum(times for _, times in entry["all_reduces"]),
          reduced=sum(size * times for size, times in entry["all_reduces"]))
        for images, entry in sorted(found.items(), key=lambda item: int(item[0]))}
      for step, found in figures["programs"].items()}


def iterations_at(programs: Programs, name: str, images: float, chips: int) -> tuple[Iteration, Iteration] | None:
  """Returns an iteration at the two lengths of a hop; None where no two compiled programs enclose `images`."""
  teacher, *steps = (at_images(programs[step], images) for step in (TEACHER, *ITERATIONS[name]))
  if teacher is None or None in steps:
    return None
  return tuple(Iteration(times(teacher, chips, hop).total, times_of_all(steps, chips, hop)) for hop in HOP_SECONDS)


def complete(programs: Programs) -> list[str]:
  """Returns the iterations of which every program was compiled."""
  return [name for name, steps in ITERATIONS.items() if all(programs.get(step) for step in (TEACHER, *steps))]


def check_complete(programs: Programs, source: str) -> None:
  """Raises UserError, in which `source` says where the programs are from, if they complete no iteration."""
  if not complete(programs):
    needed = "; ".join(", ".join((TEACHER, *steps)) for steps in ITERATIONS.values())
    raise UserError(f"{source} {', '.join(programs) or 'no program'}; an iteration needs all of: {needed}.")


def check_enclosed(programs: Programs, images: Sequence[int], global_batch: int) -> None:
  """Raises UserError if a number of images on a chip lies outside of the compiled ones, or every share of the batch."""
  for name in complete(programs):
    compiled = sorted(set.intersection(*(set(programs[step]) for step in (TEACHER, *ITERATIONS[name]))))
    allowed = f"the programs were compiled for {compiled[0]} to {compiled[-1]} images on a chip"
    for number in images:
      if number not in enclosed(programs, name, images):
        raise UserError(f"--images has {number}; {allowed}.")
    if not any(compiled[0] <= global_batch / chips <= compiled[-1] for chips in CHIPS):
      raise UserError(f"--global_batch is {global_batch}, which no number of chips splits into that; {allowed}.")


def text(figures: Mapping[str, Any], programs: Programs, images: Sequence[int], global_batch: int) -> str:
  """Returns all tables in Markdown.

  Args:
    figures: saved or just compiled.
    programs: of these figures.
    images: on a chip, the columns of a fixed number.
    global_batch: images of the batch that is split over the chips.
  """
  versions = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
  parts = [f"{figures['network']}, compiled for {figures['topology']} with {versions}, effort {figures['effort']:g}. "
           "Computed from compiled programs, not measured.", compiled_table(figures, programs)]
  for iteration in complete(programs):
    parts += [
        f"An iteration of {iteration}, the same number of images on every chip:",
        weak_table(programs, iteration, images),
        f"An iteration of {iteration}, {global_batch} images in all, in milliseconds:",
        split_table(programs, iteration, global_batch)]
  return "\n\n".join(parts)


def compiled_table(figures: Mapping[str, Any], programs: Programs) -> str:
  """Returns the table of what each program does on a chip, loops included."""
  lines = ["| program | images on a chip | GFLOPs | GB to and from memory | all-reduces | "
           f"below {SMALL / 1e3:.0f} kB | MB in all-reduces | of the chip's memory |", "|---" * 8 + "|"]
  for step, found in programs.items():
    for images, program in found.items():
      small = sum(times for size, times in figures["programs"][step][str(images)]["all_reduces"] if size < SMALL)
      lines.append(
          f"| {step} | {images} | {program.flops / 1e9:.1f} | {program.bytes / 1e9:.2f} | {program.all_reduces} | "
          f"{small} | {program.reduced / 1e6:.1f} | {100 * program.memory / CHIP_MEMORY_BYTES:.0f} % |")
  return "\n".join(lines)


def weak_table(programs: Programs, iteration: str, images: Sequence[int]) -> str:
  """Returns the table of milliseconds and efficiency against one chip, by chips and images on a chip."""
  columns = enclosed(programs, iteration, images)
  lines = ["| chips | " + " | ".join(f"{number} images: ms | efficiency" for number in columns) + " |",
           "|---" * (1 + 2 * len(columns)) + "|"]
  for chips in CHIPS:
    cells = []
    for number in columns:
      alone = iterations_at(programs, iteration, number, 1)[0].total
      totals = [found.total for found in iterations_at(programs, iteration, number, chips)]
      cells += [between(*(1000 * total for total in totals)), between(*(100 * alone / total for total in totals), "%")]
    lines.append(f"| {chips} | " + " | ".join(cells) + " |")
  return "\n".join(lines)


def split_table(programs: Programs, iteration: str, global_batch: int) -> str:
  """Returns the table of a global batch split over the chips: the parts of the time in milliseconds, and the limit."""
  lines = ["| chips | images on a chip | teacher | arithmetic | memory | hops | bytes of all-reduces | iteration | "
           "1000 images/s | limit |", "|---" * 10 + "|"]
  for chips in CHIPS:
    images = global_batch / chips
    if (found := iterations_at(programs, iteration, images, chips)) is None:
      continue
    first, last = found
    limit = first.limit if first.limit == last.limit else f"{first.limit}, or {last.limit}"
    parts = (first.teacher, first.steps.arithmetic, first.steps.memory)
    lines.append(
        f"| {chips} | {images:g} | " + " | ".join(between(1000 * part, 1000 * part) for part in parts)
        + f" | {between(1000 * first.steps.hops, 1000 * last.steps.hops)} | {1000 * first.steps.links:.2f} | "
        f"{between(1000 * first.total, 1000 * last.total)} | "
        f"{between(global_batch / last.total / 1000, global_batch / first.total / 1000)} | {limit} |")
  return "\n".join(lines)


def enclosed(programs: Programs, iteration: str, images: Sequence[int]) -> list[int]:
  """Returns the numbers of images on a chip that compiled programs enclose."""
  return [number for number in images if iterations_at(programs, iteration, number, 1) is not None]


def between(first: float, last: float, unit: str = "") -> str:
  """Returns a range with three digits, or one number where both are the same."""
  low, high = (f"{value:.{digits_after(value)}f}" for value in sorted((first, last)))
  return (low if low == high else f"{low} to {high}") + (f" {unit}" if unit else "")


def digits_after(value: float) -> int:
  """Returns the digits after the point that leave three in all; none from 100 on."""
  return 0 if value >= 100 else 1 if value >= 10 else 2


def plot(network: str, programs: Programs, images: Sequence[int], global_batch: int) -> Figure:
  """Draws a row for each iteration: efficiency at a fixed number of images on a chip; the parts of a split batch."""
  names = complete(programs)
  figure = style.new_figure(
      f"Scale on paper: {network} on TPU v5e, computed from compiled programs, not measured.\n"
      f"Bands: a hop takes {HOP_SECONDS[0] * 1e6:.0f} to {HOP_SECONDS[1] * 1e6:.1f} microseconds. "
      "512 chips are two slices.", 11, 0.9 + 3.6 * len(names))
  rows = figure.subplots(len(names), 2, squeeze=False)
  for (left, right), name in zip(rows, names, strict=True):
    draw_efficiency(left, programs, name, images)
    left.set_title(f"{name}: images on a chip fixed")
    draw_parts(right, programs, name, global_batch)
    right.set_title(f"{name}: {global_batch} images in all")
  return figure


def draw_efficiency(axes, programs: Programs, iteration: str, images: Sequence[int]) -> None:
  """Draws a band for each number of images on a chip; its edges are the two lengths of a hop."""
  lines = {}
  for number in reversed(enclosed(programs, iteration, images)):
    alone = iterations_at(programs, iteration, number, 1)[0].total
    found = [iterations_at(programs, iteration, number, chips) for chips in CHIPS]
    lines[f"{number} images"] = [[100 * alone / both[hop].total for both in found] for hop in (0, 1)]
  draw_bands(axes, CHIPS, lines)
  axes.set_ylim(0, 105)
  axes.set_ylabel("efficiency against one chip [%]")


def draw_parts(axes, programs: Programs, iteration: str, global_batch: int) -> None:
  """Draws the milliseconds of each part, and of all together, where compiled programs enclose the images on a chip."""
  found = {chips: both for chips in CHIPS
           if (both := iterations_at(programs, iteration, global_batch / chips, chips)) is not None}
  parts = {
      "iteration": lambda i: i.total, "teacher": lambda i: i.teacher, "arithmetic": lambda i: i.steps.arithmetic,
      "memory": lambda i: i.steps.memory, "hops of\nall-reduces": lambda i: i.steps.hops,
      "bytes of\nall-reduces": lambda i: i.steps.links}
  draw_bands(axes, list(found), {
      label: [[1000 * part(both[hop]) for both in found.values()] for hop in (0, 1)] for label, part in parts.items()})
  axes.set_yscale("log")
  axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
  axes.set_ylabel("time [ms]")


def draw_bands(axes, chips, lines) -> None:
  """Draws {label: (values at the short hop, values at the long one)} over the chips; the legend is beside the axes."""
  for index, (label, (first, last)) in enumerate(lines.items()):
    look = style.series_style(index)
    axes.plot(chips, first, label=label, **look)
    axes.fill_between(chips, first, last, color=look["color"], alpha=0.2, linewidth=0)
  axes.set_xscale("log", base=2)
  axes.set_xticks(chips, [str(number) for number in chips])
  axes.set_xlabel("chips")
  axes.grid(alpha=0.3)
  axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
