"""Files of a run cut at every byte, and damaged in other ways: a sentence, or what is left of them; nothing else.

The slow tests are the same with thousands of random files: scripts/test.sh -m slow tests/test_damaged_files.py
"""

import json

from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
import pytest

from metamix_jax.config_file import load_config
from metamix_jax.errors import UserError
from metamix_jax.method.bops import LayerCost
from metamix_jax.records.metrics_file import MetricsFile
from metamix_jax.records.selected_bits import read_selected_bits, write_selected_bits
from metamix_jax.records.workdir import check_data, read_saved_config
from metamix_jax.reporting import page
from tests.helpers import saved_runs
from tests.helpers.damage import JSON, damaged
from tests.helpers.files import ROOT
from tests.helpers.properties import FAST, MANY

LAYERS = (
    LayerCost("stem", 10, 100, (8,), 8, "conv", "signed"),
    LayerCost("block/a", 20, 50, (3, 8), 4, "conv", "unsigned"),
    LayerCost("b", 30, 30, (3, 8), 4, "depthwise", "unsigned"),
)
BITS = {"block/a": 8, "b": 3}
LINES = [json.dumps({"phase": phase, "step": step, "loss": 0.5 + step}) + "\n"
         for phase, step in (("pretraining", 2), ("pretraining", 4), ("stage_a", 2), ("stage_a", 4))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("damaged")


def assert_sentence(read, name):
  """Returns what `read` returns, or None where it refuses the file in one sentence that names it."""
  try:
    return read()
  except UserError as error:
    assert name in str(error) and "\n" not in str(error), error
    return None


# DIR/selected_bits.json.


def check_selected_bits(folder, content):
  path = folder / "selected_bits.json"
  path.write_bytes(content)
  bits = assert_sentence(lambda: read_selected_bits(str(path), LAYERS), str(path))
  assert bits is None or (list(bits) == list(BITS) and set(bits.values()) <= {3, 8})
  return bits


def good_selected_bits(folder):
  write_selected_bits(folder / "good.json", BITS)
  return (folder / "good.json").read_bytes()


def test_selected_bits_cut_at_every_byte(folder):
  content = good_selected_bits(folder)
  read = [check_selected_bits(folder, content[:length]) for length in range(len(content) + 1)]
  # The file ends with a brace and a newline; without the newline it is still whole.
  assert read[:-2] == [None] * (len(content) - 1) and read[-2:] == [BITS, BITS]


SELECTED = JSON.map(lambda value: json.dumps({"selected": value}).encode())


@given(st.data())
def test_selected_bits_of_any_content(folder, data):
  check_selected_bits(folder, data.draw(SELECTED | damaged(good_selected_bits(folder))))


@pytest.mark.slow
@MANY
@given(st.data())
def test_selected_bits_of_any_content_at_length(folder, data):
  check_selected_bits(folder, data.draw(SELECTED | damaged(good_selected_bits(folder))))


@pytest.mark.parametrize("selected", [[[1, 2]], [["b", 3], ["block/a", 8]], {"b": [3], "block/a": 8}, "b", None, [[]]])
def test_selected_bits_that_are_no_object_of_bits(folder, selected):
  bits = check_selected_bits(folder, json.dumps({"selected": selected}).encode())
  assert bits is None or bits == {"block/a": 8, "b": 3}


# DIR/metrics.jsonl.


def check_metrics(folder, content):
  """`keep` drops what is damaged and what lies behind the step, and no other line; or it refuses the file as it is."""
  path = folder / "metrics.jsonl"
  path.write_bytes(content)
  try:
    content.decode()
  except UnicodeDecodeError:
    with pytest.raises(UserError, match="metrics.jsonl cannot be read"):
      MetricsFile(folder).keep("stage_a", 2)
    assert path.read_bytes() == content
    return
  whole = [line for line in content.splitlines(keepends=True) if line in {text.encode() for text in LINES}]
  MetricsFile(folder).keep("stage_a", 2)
  left = path.read_bytes().splitlines(keepends=True)
  assert all(line in left for line in whole if line != LINES[3].encode())
  for line in left:
    record = json.loads(line)
    assert line.endswith(b"\n") and (record["phase"] != "stage_a" or record["step"] <= 2)
  MetricsFile(folder).append({"phase": "stage_a", "step": 4, "loss": 1.5})
  assert json.loads(path.read_bytes().splitlines()[-1]) == {"phase": "stage_a", "step": 4, "loss": 1.5}


def test_metrics_cut_at_every_byte(folder):
  content = "".join(LINES).encode()
  for length in range(len(content) + 1):
    check_metrics(folder, content[:length])


LINES_OF_JSON = st.lists(JSON.map(json.dumps) | st.sampled_from([text.strip() for text in LINES]), max_size=5).map(
    lambda lines: "".join(f"{line}\n" for line in lines).encode())


@given(st.data())
def test_metrics_of_any_content(folder, data):
  check_metrics(folder, data.draw(LINES_OF_JSON | damaged("".join(LINES).encode())))


@pytest.mark.slow
@MANY
@given(st.data())
def test_metrics_of_any_content_at_length(folder, data):
  check_metrics(folder, data.draw(LINES_OF_JSON | damaged("".join(LINES).encode())))


# DIR/config.json, DIR/data.json, and all that the report reads.


def test_config_and_data_cut_at_every_byte(tmp_path):
  content = {"config.json": b'{"seed": 0, "data.name": "digits"}', "data.json": json.dumps({
      "name": "folder", "version": "1.0.0", "classes": ["a", "b"], "images": {"train": 3}}).encode()}
  for length in range(len(content["config.json"])):
    (tmp_path / "config.json").write_bytes(content["config.json"][:length])
    assert assert_sentence(lambda: read_saved_config(tmp_path / "config.json"), "config.json") is None
  for length in range(len(content["data.json"])):
    (tmp_path / "data.json").write_bytes(content["data.json"][:length])
    with pytest.raises(UserError, match="data.json cannot be read"):
      check_data(tmp_path, json.loads(content["data.json"]))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A finished run whose figures are drawn, but not turned into pixels, which takes ten times as long."""
  folder = tmp_path_factory.mktemp("run")
  saved_runs.write_run(folder, *saved_runs.small_config(), records_per_epoch=1)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(Figure, "savefig", lambda figure, path, **_: path.write_bytes(b""))
    yield folder


def check_report(finished, name, content):
  """`report.py` makes the page, or refuses the file."""
  path = finished / name
  before = path.read_bytes()
  try:
    path.write_bytes(content)
    assert_sentence(lambda: page.write(finished), str(path))
  finally:
    path.write_bytes(before)


FILES_OF_A_REPORT = (
    "config.json", "network.json", "metrics.jsonl", "report/summary.json", "checkpoints/pretraining.json",
    "checkpoints/bit_selection.json", "checkpoints/meta_evaluation.json", "checkpoints/stage_b.json")


@pytest.mark.parametrize("name", FILES_OF_A_REPORT)
def test_files_of_a_report_cut_at_many_bytes(finished, name):
  content = (finished / name).read_bytes()
  for length in range(0, len(content), max(1, len(content) // 15)):
    check_report(finished, name, content[:length])


@FAST
@given(st.data())
def test_results_of_a_phase_with_a_value_of_any_type(finished, data):
  name = data.draw(st.sampled_from(("pretraining", "bit_selection", "meta_evaluation", "stage_a", "stage_b")))
  results = json.loads((finished / "checkpoints" / f"{name}.json").read_text())
  results[data.draw(st.sampled_from(sorted(results)))] = data.draw(JSON)
  check_report(finished, f"checkpoints/{name}.json", json.dumps(results).encode())


@FAST
@given(st.data())
def test_files_of_a_report_with_any_damage(finished, data):
  name = data.draw(st.sampled_from(FILES_OF_A_REPORT))
  check_report(finished, name, data.draw(damaged((finished / name).read_bytes())))


@pytest.mark.slow
@MANY
@given(st.data())
def test_files_of_a_report_with_any_damage_at_length(finished, data):
  name = data.draw(st.sampled_from(FILES_OF_A_REPORT))
  check_report(finished, name, data.draw(damaged((finished / name).read_bytes())))


# Config files.

CONFIG = '''from metamix_jax.config_file import load_config
import pathlib

def get_config():
  config = load_config({base!r})
  config.seed = 3
  return config
'''


def test_a_config_file_cut_at_every_byte(tmp_path):
  """A sentence of ours, or Python's own error with the file's name: a file that is cut is a program that is wrong."""
  text = CONFIG.format(base=str(ROOT / "configs" / "base.py"))
  outcomes = set()
  for length in range(len(text) + 1):
    (tmp_path / "own.py").write_text(text[:length])
    try:
      config = assert_sentence(lambda: load_config(tmp_path / "own.py"), "own.py")
      outcomes.add("sentence" if config is None else "config")
      assert config is None or config.seed in (0, 3)
    except SyntaxError as error:
      outcomes.add("syntax")
      assert error.filename == str(tmp_path / "own.py")
    except Exception as error:
      outcomes.add("own error")
      assert str(tmp_path / "own.py") in [frame.co_filename for frame in frames_of(error)]
  assert outcomes == {"sentence", "config", "syntax", "own error"}


def frames_of(error):
  trace, frames = error.__traceback__, []
  while trace is not None:
    frames.append(trace.tb_frame.f_code)
    trace = trace.tb_next
  return frames
