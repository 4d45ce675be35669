"""From a run's folder to DIR/export: what is written, what is a sentence, and that nothing stays behind."""

import csv
import dataclasses
import errno
import hashlib
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest

import metamix_jax
from metamix_jax.errors import UserError
from metamix_jax.export import certificate, evaluator, folding, onnx_files, program, run, saved_network
from metamix_jax.method.bops import complete_bits, gbops
from metamix_jax.records import cost_tables
from metamix_jax.records.checkpoints import PhaseCheckpoints
from metamix_jax.records.files import write_json
from metamix_jax.records.results import BitSelection, TargetResult
from metamix_jax.records.workdir import check_workdir
from metamix_jax.training import context
from tests.helpers.configs import middle_target, tiny_config
from tests.helpers.exported_networks import random_network
from tests.helpers.files import ROOT

TINY_OPTIONS = dict(stem_stride=1, stem_channels=8, blocks=((1, 8, 1, 1), (2, 8, 1, 2)), last_channels=16)


@pytest.fixture(scope="module")
def network():
  return random_network("mobilenet_v2", TINY_OPTIONS, (8, 8, 1), bits=4)


@pytest.fixture
def workdir(tmp_path, network, data_dir):
  """The files of a finished run that an export reads."""
  config = tiny_config(data_dir)
  config.arch.target_gbops = middle_target(config)
  return write_run(tmp_path / "digits", config, network)


def write_run(folder, config, network):
  """Writes the files of a finished run of a config that an export reads; returns the folder."""
  checkpoints = PhaseCheckpoints(folder / "checkpoints")
  check_workdir(config, folder)
  layers = network.network.layers
  bits = {layer.name: network.bits[layer.name] for layer in layers if layer.searched}
  selection = BitSelection((TargetResult(config.arch.target_gbops, layers, 0.03, bits, bits),))
  write_json(folder / "checkpoints" / "bit_selection.json", selection.to_json())
  # The run has the candidates 3, 4 and 8, the random network 2 besides.
  step_sizes = {}
  for layer in layers:
    source, node = network.variables["step_sizes"], step_sizes
    for part in layer.name.split("/"):
      source, node = source[part], node.setdefault(part, {})
    node |= {"weight": source["weight"], "activation": source["activation"][1 if layer.searched else 0:]}
  checkpoints.save("stage_b", {
      "weights": network.variables["params"], "batch_stats": network.variables["batch_stats"],
      "step_sizes": step_sizes}, {"final_top1": 10.0})
  return folder


def test_a_run_is_exported_as_a_whole(workdir, network):
  """Every format, by the public name; the file of each loads and says what was proven."""
  before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
  folder = metamix_jax.export_run(workdir)
  assert folder == workdir / "export"
  assert sorted(path.name for path in folder.iterdir()) == [
      "bits.csv", "bits.json", "bits.schema.json", "certificate.json", "evaluator.py", "golden.npz", "integer.onnx",
      "program.json", "program.npz", "qcdq.onnx", "qonnx.onnx", "stablehlo.bin"]
  assert {path: path.read_bytes() for path in before} == before and not list(workdir.glob("*.partial"))
  facts = json.loads((folder / "certificate.json").read_text())
  layers = network.network.layers
  assert facts["about"]["gbops"] == gbops(layers, complete_bits(layers, network.bits))
  proof = facts["certificate"]
  assert proof["g3"]["images"] == proof["g1"]["images"] == 450
  assert proof["g2"]["codes"] == proof["g1"]["codes"] == 450 * sum(layer.input_elements for layer in layers)
  assert proof["g1"]["compared"] == [
      "NumPy evaluator", "program, JAX on CPU", "stablehlo.bin, JAX on CPU", "integer.onnx, ONNX Runtime on CPU"]
  for name, digest in facts["sha256"].items():
    assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
  for name in ("integer", "qcdq", "qonnx"):
    model = onnx_files.onnx.load(folder / f"{name}.onnx")
    assert json.loads({entry.key: entry.value for entry in model.metadata_props}["certificate"]) == proof
  assert json.loads((folder / "program.json").read_text())["certificate"] == proof
  assert evaluator.check_golden(folder).startswith("4 golden images: ")
  bits = json.loads((folder / "bits.json").read_text())
  assert {row["layer"]: row["input_bits"] for row in bits["layers"]} == complete_bits(layers, network.bits)
  assert bits["gbops"] == facts["about"]["gbops"]
  peaks = facts["memory"]
  assert peaks["packed_bytes"] < peaks["byte_codes_bytes"] < peaks["float32_bytes"]
  assert f"450 of 450 predictions are equal; top-1 {proof['g3']['top1']:.2f}" in run.describe(folder)
  assert f"at their peak: {peaks['packed_bytes']:,} bytes with packed codes" in run.describe(folder)
  with pytest.raises(UserError, match="export exists already"):
    run.export_run(workdir)


@pytest.fixture
def costly_workdir(tmp_path, network, data_dir):
  """A run for a cost and a limit of a user's own, whose tables leave out the layers that are not searched."""
  for name, unit, step in (("phone", "ms", 0.25), ("battery", "mJ", 2.0)):
    rows = [(layer.name, bits, step * bits) for layer in network.network.layers if layer.searched for bits in (3, 4, 8)]
    with (tmp_path / f"{name}.csv").open("w", newline="") as file:
      csv.writer(file).writerows([("layer", "activation_bits", f"{name} [{unit}]"), *rows])
  config = tiny_config(data_dir)
  config.arch.cost, config.arch.at_most = str(tmp_path / "phone.csv"), (f"{tmp_path / 'battery.csv'}=90.0",)
  config.arch.target_gbops = middle_target(config)
  layers = context.networks_without_data(config)[0].layers
  limited = cost_tables.with_costs(str(tmp_path / "battery.csv"), layers)
  folder = write_run(tmp_path / "digits", config, network)
  costs, limits = ({layer.name: dataclasses.asdict(layer.cost) for layer in each} for each in (layers, limited))
  write_json(folder / "network.json", {
      "layers": [{"name": name, "cost": cost} for name, cost in costs.items()],
      "limits": [{"most": 90.0, "costs": limits}]})
  return folder


def test_an_export_counts_bit_operations_whatever_the_run_searched_for(costly_workdir, network):
  folder = run.export_run(costly_workdir, formats=("program",), num_exact=2)
  layers = network.network.layers
  searched = [layer for layer in layers if layer.searched]
  assert len(searched) == 6 and len(layers) == 8
  for name in ("certificate.json", "program.json"):
    about = json.loads((folder / name).read_text())["about"]
    # The six searched layers are at 4 bits, 0.25 * 4 ms each; the target is midway between 3 and 8 bits.
    assert (about["cost"], about["target"], about["cost_name"], about["cost_unit"]) == (6.0, 8.25, "phone", "ms")
    assert about["gbops"] == gbops(layers, complete_bits(layers, network.bits))
  bits = json.loads((folder / "bits.json").read_text())
  assert bits["gbops"] == about["gbops"]
  assert sum(row["bops"] for row in bits["layers"]) == round(1e9 * bits["gbops"])
  assert [row["bops"] for row in bits["layers"]] == [
      layer.macs * layer.weight_bits * network.bits[layer.name] for layer in layers]


@pytest.mark.parametrize("table, field", [("phone", "config.arch.cost"), ("battery", "config.arch.at_most")])
def test_a_table_of_costs_that_changed_since_the_run_is_refused(table, field, costly_workdir, tmp_path):
  saved_network.read(costly_workdir)  # The table is still that of the run.
  path = tmp_path / f"{table}.csv"
  lines = path.read_text().splitlines()
  path.write_text("\n".join([lines[0], lines[1].rpartition(",")[0] + ",0.5", *lines[2:]]) + "\n")
  layer = lines[1].partition(",")[0]
  with pytest.raises(UserError, match=f"a run with other costs: those of layer {layer} were .* table of {field} back"):
    run.export_run(costly_workdir, formats=("program",))
  assert not list(costly_workdir.glob("export*"))


def damage(workdir, what):
  if what == "no run":
    (workdir / "config.json").unlink()
  elif what == "unfinished":
    (workdir / "checkpoints" / "stage_b.json").unlink()
  elif what == "config":
    (workdir / "config.json").write_text("{")
  elif what == "selection":
    (workdir / "checkpoints" / "bit_selection.json").write_text('{"targets": []')
  elif what in ("no selection", "two selections"):
    path = workdir / "checkpoints" / "bit_selection.json"
    selection = json.loads(path.read_text())
    selection["targets"] *= 0 if what == "no selection" else 2
    path.write_text(json.dumps(selection))
  elif what == "checkpoint":
    for path in (workdir / "checkpoints" / "stage_b").rglob("*"):
      if path.is_file():
        path.write_bytes(path.read_bytes()[:10])
  elif what == "other quantizer":
    (workdir / "network.json").write_text(json.dumps({"layers": [], "quantizer": ["mine.quantize", "mine.mix"]}))
  elif what == "other network":
    fields = json.loads((workdir / "config.json").read_text())
    fields["network.options"]["last_channels"] = 24
    (workdir / "config.json").write_text(json.dumps(fields))


@pytest.mark.parametrize("what, target, words", [
    ("no run", None, "is not the folder of a run"),
    ("unfinished", None, r"was not trained to stage B for the target .*stage_b.json is not there"),
    ("config", None, "config.json cannot be read"),
    ("selection", None, "bit_selection.json cannot be read"),
    ("no selection", None, r"bit_selection.json cannot be read \(it has 0 selections for the target [\d.e-]+, not"),
    ("two selections", None, r"bit_selection.json cannot be read \(it has 2 selections for the target [\d.e-]+, not"),
    ("checkpoint", None, "stage_b cannot be read"),
    ("other network", None, "cannot be read"),
    ("other quantizer", None, "holds a run with another quantizer: it was mine.quantize, mine.mix and is metamix_jax."),
    ("nothing", 7.0, "--target is 7, and .* has the targets"),
])
def test_what_cannot_be_exported_is_a_sentence(what, target, words, workdir):
  damage(workdir, what)
  before = sorted(workdir.rglob("*"))
  with pytest.raises(UserError, match=words):
    run.export_run(workdir, target=target, formats=("program",))
  assert sorted(workdir.rglob("*")) == before


def test_an_unknown_format_and_a_missing_package_are_said_at_the_start(monkeypatch):
  with pytest.raises(UserError, match="--format has 'tflite'; allowed are program, stablehlo, integer, qcdq, qonnx"):
    run.export_run(pathlib.Path("nowhere"), formats=("program", "tflite"))
  monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else object())
  with pytest.raises(UserError, match="the format qcdq needs onnxruntime: pip install"):
    run.export_run(pathlib.Path("nowhere"), formats=("program", "qcdq"))
  run.check_formats(("program", "stablehlo"))


@pytest.mark.parametrize("num_exact", [0, -1])
def test_at_least_one_image_is_compared_exactly(num_exact):
  with pytest.raises(UserError, match=f"num_exact is {num_exact}; it must be 1 or more images, or None for all"):
    run.export_run(pathlib.Path("nowhere"), formats=("program",), num_exact=num_exact)


def certified(*arguments):
  return {"g1": {}, "g2": {}, "g3": {}}


def test_a_full_disk_leaves_nothing(workdir, monkeypatch):
  def full(folder, *arguments):
    (folder / "golden.npz").write_bytes(b"half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
  monkeypatch.setattr(certificate, "certify", certified)
  monkeypatch.setattr(program, "write_golden", full)
  before = sorted(workdir.rglob("*"))
  with pytest.raises(UserError, match="export cannot be written: No space left on device"):
    run.export_run(workdir, formats=("program",))
  assert sorted(workdir.rglob("*")) == before


def test_a_file_that_the_system_refuses_to_finish_leaves_nothing(network, tmp_path):
  """No mocked exception: no file may grow beyond a limit, one byte less than each file of the export in turn."""
  made = folding.make_program(network.network, network.variables, network.bits, network.image_shape)

  def write():
    with run.written_together(tmp_path / "export") as partial:
      run.write_files(partial, made, network.network.layers, {"stablehlo.bin": bytes(50_000)}, {"certificate": {}},
                      np.zeros((2, *network.image_shape), np.uint8))

  write()
  sizes = [path.stat().st_size for path in (tmp_path / "export").iterdir()]
  assert len(sizes) == 9
  shutil.rmtree(tmp_path / "export")
  allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
  for size in sizes:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, allowed[1]))
    try:
      with pytest.raises(UserError, match="cannot be written.*File too large"):
        write()
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_appears_meanwhile_is_kept(tmp_path):
  folder = tmp_path / "export"
  with pytest.raises(UserError, match="export cannot be written: Directory not empty"):
    with run.written_together(folder) as partial:
      (partial / "bits.json").write_text("{}")
      folder.mkdir()
      (folder / "notes.txt").write_text("mine")
  assert list(tmp_path.iterdir()) == [folder] and [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_what_a_killed_export_left_is_replaced(workdir, monkeypatch):
  monkeypatch.setattr(certificate, "certify", certified)
  (workdir / "export.partial").mkdir()
  (workdir / "export.partial" / "golden.npz").write_bytes(b"half")
  folder = run.export_run(workdir, formats=("program",))
  assert "4 golden images" in evaluator.check_golden(folder)
  assert not (workdir / "export.partial").exists()


def test_a_failed_certificate_is_a_failed_export(workdir, monkeypatch):
  monkeypatch.setattr(certificate, "LARGEST_DISTANCE", 0.0)
  with pytest.raises(certificate.NotCertified, match="G2 does not hold"):
    run.export_run(workdir, formats=("program",))
  assert not list(workdir.glob("export*"))


def test_the_command_says_a_mistake_in_one_sentence(tmp_path):
  result = subprocess.run(
      [sys.executable, ROOT / "scripts" / "export.py", tmp_path, "--format=program"], capture_output=True, text=True,
      cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})
  assert result.returncode == 2
  assert result.stderr == f"export: {tmp_path} is not the folder of a run: it has no config.json.\n"
  assert not list(tmp_path.iterdir())
