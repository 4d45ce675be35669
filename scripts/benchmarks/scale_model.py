"""What a step takes on 1 to 512 TPU v5e chips, computed from what the compiler says of its program, not measured.

A chip multiplies at its peak and moves bytes at the bandwidth of its memory; the longer of the two counts. All-reduces
come on top, one after the other and none of them beside other work: each one takes the hops of its path and the time of
its bytes on the links. The programs of an iteration follow each other.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

# https://docs.cloud.google.com/tpu/docs/v5e, per chip. The 256 chips of a full slice then reduce 51.2 TB/s, as it says.
PEAK_FLOPS = 197e12  # A second, in bfloat16.
MEMORY_BYTES = 819e9  # A second.
LINK_BYTES = 400e9 / 8  # A second, in each direction of one of the four links; links never limit here.
CHIP_MEMORY_BYTES = 16 * 2**30
SLICE_CHIPS = 256  # More chips are several slices, joined by a data-centre network.
NETWORK_BYTES = 6.4e12 / 8 / SLICE_CHIPS  # A second and chip, of the data-centre network.
# https://jax-ml.github.io/scaling-book/sharding: an axis is a ring where it has 16 chips, else a line.
RING_CHIPS = 16
# The same page: a hop typically takes 1 microsecond; its profile of three hops shows 8.
HOP_SECONDS = (1e-6, 8e-6 / 3)
# An assumption, not published: one all-reduce between slices, over hosts and their network, beside its bytes.
NETWORK_SECONDS = 100e-6
# Products in bfloat16 for one product of float32 (docs/method.md, "Precision of products").
PASSES = {"highest": 6, "high": 3, "default": 1}
CHIPS = tuple(2**power for power in range(10))


class Program(NamedTuple):
  """Holds what a chip does in a program, all turns of its loops included.

  Attributes:
    flops: of all operations.
    bytes: that its operations read and write.
    passes: bfloat16 products for one product.
    memory: that it needs, in bytes.
    all_reduces: their number.
    reduced: bytes that they sum.
  """

  flops: float
  bytes: float
  passes: float
  memory: float
  all_reduces: float
  reduced: float


class Times(NamedTuple):
  """Holds the seconds of a step.

  Attributes:
    arithmetic: of the products.
    memory: of the bytes to and from the chip's memory.
    busy: the longer of both, summed over the programs.
    hops: of all all-reduces, whatever their size.
    links: of the bytes that they sum.
  """

  arithmetic: float
  memory: float
  busy: float
  hops: float
  links: float

  @property
  def total(self) -> float:
    """All seconds of the step."""
    return self.busy + self.hops + self.links

  @property
  def limit(self) -> str:
    """The part that takes longest."""
    parts = {"arithmetic" if self.arithmetic > self.memory else "memory": self.busy,
             "hops of all-reduces": self.hops, "bytes of all-reduces": self.links}
    return max(parts, key=parts.get)


def slice_shape(chips: int) -> tuple[int, int]:
  """Returns the two sides of a slice, as v5e's: equal, or the second twice the first; raises ValueError as `_power`."""
  power = _power(chips)
  return 2**(power // 2), 2**(power - power // 2)


def hops_of(chips: int) -> int:
  """Counts the hops of one all-reduce in a slice: a reduce-scatter and an all-gather along each axis."""
  return 2 * sum(side // 2 if side == RING_CHIPS else side - 1 for side in slice_shape(chips))


def reduced_bytes_per_second(chips: int) -> float:
  """Returns the bytes a second that a chip of a slice sends in an all-reduce: along both axes, on rings both ways."""
  return LINK_BYTES * sum(2 if side == RING_CHIPS else 1 for side in slice_shape(chips) if side > 1)


def times(program: Program, chips: int, hop: float) -> Times:
  """Returns the seconds of a program on a number of chips.

  Args:
    program: what each chip does, whatever their number; a single chip leaves out the all-reduces.
    chips: a power of 2; more than SLICE_CHIPS are several slices, each of which reduces first, so that every chip sends
      its share of the sums over the data-centre network.
    hop: seconds of a hop.

  Raises:
    ValueError: `chips` is no power of 2.
  """
  inside, slices = min(chips, SLICE_CHIPS), max(1, chips // SLICE_CHIPS)
  _power(chips)
  arithmetic = program.flops * program.passes / PEAK_FLOPS
  memory = program.bytes / MEMORY_BYTES
  hops, links = program.all_reduces * hops_of(inside) * hop, 0.0
  if inside > 1:
    links = program.reduced * 2 * (inside - 1) / inside / reduced_bytes_per_second(inside)
  if slices > 1:
    hops += program.all_reduces * NETWORK_SECONDS
    links += program.reduced / inside * 2 * (slices - 1) / slices / NETWORK_BYTES
  return Times(arithmetic, memory, max(arithmetic, memory), hops, links)


def times_of_all(programs: Sequence[Program], chips: int, hop: float) -> Times:
  """Returns the seconds of programs that follow each other, as `times` does for one."""
  return Times(*(sum(parts) for parts in zip(*(times(program, chips, hop) for program in programs), strict=True)))


def at_images(programs: Mapping[int, Program], images: float) -> Program | None:
  """Returns the program for a number of images on a chip, on the line between the two compiled ones beside it.

  Args:
    programs: the compiled programs by their images on a chip.
    images: on a chip.

  Returns:
    The program; None where `images` is below the smallest or above the largest compiled number.
  """
  below = max((size for size in programs if size <= images), default=None)
  above = min((size for size in programs if size >= images), default=None)
  if below is None or above is None:
    return None
  share = 0.0 if above == below else (images - below) / (above - below)
  return Program(*(
      first + share * (second - first) for first, second in zip(programs[below], programs[above], strict=True)))


def _power(chips):
  """Returns the exponent of a power of 2; raises ValueError for any other number."""
  if chips < 1 or chips & (chips - 1):
    raise ValueError(f"{chips} chips are no power of 2.")
  return chips.bit_length() - 1
