"""The model of a slice against numbers by hand; tables and plot of invented figures, without a TPU compiler."""

import json
import subprocess
import sys

import pytest

from metamix_jax.errors import UserError
from tests.helpers.files import ROOT

with pytest.MonkeyPatch.context() as patch:
  patch.syspath_prepend(str(ROOT / "scripts" / "benchmarks"))
  import scale_model as model
  import scale_report as report
  import tpu_programs

# 1 ms of arithmetic in one pass and 2 ms of memory; 100 all-reduces of 200 MB together.
PROGRAM = model.Program(flops=197e9, bytes=2 * 819e6, passes=1, memory=1e9, all_reduces=100, reduced=200e6)


def test_hops_are_those_of_a_reduce_scatter_and_an_all_gather_along_both_axes():
  # 2 x 4 is two lines: 2 (1 + 3). 8 x 16 is a line and a ring: 2 (7 + 8). 16 x 16: 2 (8 + 8).
  assert [model.hops_of(chips) for chips in (1, 2, 4, 8, 16, 32, 64, 128, 256)] == [0, 2, 4, 8, 12, 20, 28, 30, 32]


def test_a_full_slice_reduces_what_is_published():
  assert 256 * model.reduced_bytes_per_second(256) == 51.2e12
  assert [model.reduced_bytes_per_second(chips) / 50e9 for chips in (1, 2, 4, 64, 128)] == [0, 1, 2, 2, 3]
  assert model.NETWORK_BYTES == 3.125e9  # 6.4 Tbit/s for 256 chips.


def test_one_chip_takes_the_longer_of_arithmetic_and_memory():
  times = model.times(PROGRAM, 1, 1e-6)
  assert times == pytest.approx((1e-3, 2e-3, 2e-3, 0, 0))
  assert (times.total, times.limit) == (pytest.approx(2e-3), "memory")
  times = model.times(PROGRAM._replace(passes=6), 1, 1e-6)
  assert (times.busy, times.limit) == (pytest.approx(6e-3), "arithmetic")


def test_all_reduces_of_a_slice():
  # 100 x 12 hops of 2 microseconds; 2 x 15/16 x 200 MB over two links.
  times = model.times(PROGRAM, 16, 2e-6)
  assert (times.hops, times.links) == (pytest.approx(2.4e-3), pytest.approx(3.75e-3))
  assert (times.total, times.limit) == (pytest.approx(8.15e-3), "bytes of all-reduces")
  assert model.times(PROGRAM, 16, 4e-6).limit == "hops of all-reduces"


def test_two_slices_add_the_network_between_them():
  inside, both = model.times(PROGRAM, 256, 1e-6), model.times(PROGRAM, 512, 1e-6)
  assert inside.hops == pytest.approx(3.2e-3)
  assert both.hops - inside.hops == pytest.approx(10e-3)  # 100 x 100 microseconds.
  assert both.links - inside.links == pytest.approx(200e6 / 256 / 3.125e9)  # 2 x 1/2 of a chip's share.


def test_programs_follow_each_other():
  other = PROGRAM._replace(passes=6, all_reduces=0, reduced=0)
  assert model.times_of_all([PROGRAM, other], 1, 1e-6) == pytest.approx((7e-3, 4e-3, 8e-3, 0, 0))


@pytest.mark.parametrize("chips", [0, 3, 48])
def test_chips_that_are_no_power_of_two(chips):
  with pytest.raises(ValueError, match=f"{chips} chips are no power of 2"):
    model.times(PROGRAM, chips, 1e-6)


def test_images_between_compiled_programs():
  programs = {8: PROGRAM, 16: PROGRAM._replace(flops=297e9)}
  assert model.at_images(programs, 8) == PROGRAM
  assert model.at_images(programs, 10).flops == pytest.approx(222e9)
  assert model.at_images(programs, 4) is None and model.at_images(programs, 32) is None


def test_figures_count_every_turn_of_a_loop():
  entry = {"flops": 5.0, "bytes": 7.0, "turns": 3, "passes": 6, "memory": 11, "all_reduces": [[400, 1], [8, 6]]}
  assert report.programs_of({"programs": {"bit-meta": {"16": entry}}}) == {
      "bit-meta": {16: model.Program(15, 21, 6, 11, 7, 448)}}


# A loop around one all-reduce of 2 x 64 floats; one of 10 floats and one byte outside of it.
COMPILED = """
%test.1 (p: (s32[], f32[2,64])) -> pred[] {
  %constant.4 = s32[]{:T(128)} constant(3), metadata={op_name="a"}
  %constant.5 = s32[]{:T(128)} constant(7)
  ROOT %lt.1 = pred[]{:T(512)} compare(%counter, %constant.4), direction=LT, metadata={op_name="b"}
}
%body.1 (p: (s32[], f32[2,64])) -> (s32[], f32[2,64]) {
  %all-reduce.1 = f32[2,64]{1,0} all-reduce(%a), to_apply=%add
}
ENTRY %main.2 (q: f32[]) -> f32[] {
  %while.1 = (s32[], f32[2,64]) while(%q), condition=%test.1, body=%body.1KNOWN
  %all-reduce-start.2 = (f32[10]{0}, s8[1]{0}) all-reduce-start(%b, %c), to_apply=%add
}
"""


# The CPU compiler says how often the loop turns; the TPU compiler does not.
@pytest.mark.parametrize(("known", "turns"), [("", 3), (', backend_config={"known_trip_count":{"n":"5"}}', 5)])
def test_all_reduces_of_a_compiled_program(known, turns):
  text = COMPILED.replace("KNOWN", known)
  found = tpu_programs.loop_turns(text)
  assert (found["main.2"], found["body.1"]) == (1, turns)
  assert tpu_programs.all_reduces(text, found) == [(512, turns), (41, 1)]


def test_a_loop_of_unknown_turns_counts_once():
  text = COMPILED.replace("KNOWN", "").replace("direction=LT", "direction=NE")
  assert tpu_programs.loop_turns(text)["body.1"] == 1


def invented(flops, all_reduces, passes=1):
  return {"flops": flops, "bytes": 0.0, "turns": 1, "passes": passes, "memory": 2**33, "all_reduces": all_reduces}


@pytest.fixture
def figures():
  return {
      "network": "a_network", "topology": "v5e:4x4", "effort": -1.0, "versions": {"jax": "1", "libtpu": "2"},
      "programs": {
          "teacher": {"8": invented(197e9, []), "256": invented(197e9 * 32, [])},
          "stage B": {"8": invented(197e9, [[1000, 50]]), "256": invented(197e9 * 32, [[1000, 50]])}}}


def test_tables(figures):
  programs = report.programs_of(figures)
  assert report.complete(programs) == ["weight training"]
  assert report.compiled_table(figures, programs).splitlines()[-1] == (
      "| stage B | 256 | 6304.0 | 0.00 | 50 | 50 | 0.1 | 50 % |")
  # 2 ms alone; on 16 chips 50 all-reduces of 12 hops take 0.6 ms, or 1.6.
  weak = report.weak_table(programs, "weight training", (8, 256)).splitlines()
  assert weak[2] == "| 1 | 2.00 | 100 % | 64.0 | 100 % |"
  assert weak[6] == "| 16 | 2.60 to 3.60 | 55.5 to 76.9 % | 64.6 to 65.6 | 97.6 to 99.1 % |"
  split = report.split_table(programs, "weight training", 4096).splitlines()
  assert [line.split(" | ")[:2] for line in split[2:]] == [
      ["| 16", "256"], ["| 32", "128"], ["| 64", "64"], ["| 128", "32"], ["| 256", "16"], ["| 512", "8"]]
  assert split[2].startswith("| 16 | 256 | 32.0 | 32.0 | 0.00 | 0.60 to 1.60 | 0.00 | 64.6 to 65.6 | 62.4 to 63.4 |")
  assert split[2].endswith("| arithmetic |") and split[-1].endswith("| hops of all-reduces |")


def test_what_one_program_needs():
  """Both turns of the loop and the entry's own all-reduce; those of one size would stand together."""
  text = COMPILED.replace("KNOWN", "")
  assert tpu_programs.describe(text, {"flops": 5.0, "bytes accessed": 7.0}, 11) == {
      "flops": 5.0, "bytes": 7.0, "turns": 3, "memory": 11, "all_reduces": [[512, 3], [41, 1]]}


def test_programs_that_complete_no_iteration(figures):
  with pytest.raises(UserError, match="^--steps names teacher; an iteration needs all of: teacher, bit-meta, "):
    report.check_complete({"teacher": {}}, "--steps names")
  with pytest.raises(UserError, match="^FILE has no program; an iteration needs all of: "):
    report.check_complete({}, "FILE has")
  programs = report.programs_of(figures)
  report.check_enclosed(programs, [8, 256], 4096)
  with pytest.raises(UserError, match="^--images has 4; the programs were compiled for 8 to 256 images on a chip"):
    report.check_enclosed(programs, [4, 8], 4096)
  with pytest.raises(UserError, match="^--global_batch is 7, which no number of chips splits into that; the programs"):
    report.check_enclosed(programs, [8], 7)


def test_a_slow_teacher_is_the_limit(figures):
  figures["programs"]["teacher"]["8"]["passes"] = 60
  both = report.iterations_at(report.programs_of(figures), "weight training", 8, 1)
  assert both[0].total == pytest.approx(61e-3) and both[0].limit == "teacher"


def test_page_has_the_tables_of_the_saved_figures():
  saved = json.loads((ROOT / "docs" / "evidence" / "weak_scaling.json").read_text())
  programs = report.programs_of(saved)
  page = (ROOT / "docs" / "many-devices.md").read_text()
  assert report.compiled_table(saved, programs) in page
  assert report.weak_table(programs, "weight training", (8, 16, 256)) in page
  assert report.split_table(programs, "weight training", 4096) in page


def test_command(figures, tmp_path):
  path, picture = tmp_path / "figures.json", tmp_path / "scale.png"
  path.write_text(json.dumps(figures))
  run = lambda *arguments: subprocess.run(
      [sys.executable, ROOT / "scripts" / "benchmarks" / "weak_scaling.py", *arguments], check=False,
      capture_output=True, text=True)
  done = run(f"--figures={path}", f"--plot={picture}")
  assert done.returncode == 0, done.stderr
  assert "Computed from compiled programs, not measured." in done.stdout and "| 512 | 8 |" in done.stdout
  assert picture.read_bytes().startswith(b"\x89PNG")
  path.write_text(json.dumps(figures).replace("flops", "other"))
  failed = run(f"--figures={path}")
  assert failed.returncode == 2 and "'flops' is missing" in failed.stderr
  path.write_text(json.dumps({name: value for name, value in figures.items() if name != "versions"}))
  failed = run(f"--figures={path}")
  assert failed.returncode == 2 and "'versions' is missing" in failed.stderr
