"""A trained run of the quick start's shape, exported: the promises, and G1 however its files are run."""

import json

import numpy as np
import pytest

import metamix_jax
from metamix_jax import experiment
from metamix_jax.export import certificate, evaluator, folding, onnx_files, run, saved_network
from metamix_jax.training.context import prepare
from tests.helpers.configs import digits_config
from tests.helpers.exported_networks import noise


@pytest.fixture(scope="module")
def workdir(data_dir, tmp_path_factory):
  """The quick start's config with a few epochs in each phase."""
  config = digits_config()
  config.data.data_dir = str(data_dir)
  config.pretraining.epochs, config.bit_selection.epochs, config.bit_selection.meta_only_epochs = 6, 3, 1
  config.stage_a.epochs, config.stage_b.epochs = 2, 3
  config.evaluation_batch_size = 152  # The tests have four devices.
  folder = tmp_path_factory.mktemp("runs") / "digits"
  experiment.run(prepare(config), folder)
  return folder


@pytest.fixture(scope="module")
def saved(workdir):
  return saved_network.read(workdir)


@pytest.mark.slow
def test_the_export_of_a_trained_run_is_certified_on_its_whole_split(workdir, saved):
  folder = metamix_jax.export_run(workdir)
  proof = json.loads((folder / "certificate.json").read_text())["certificate"]
  codes = 450 * sum(layer.input_elements for layer in saved.network.layers)
  assert (proof["g1"]["images"], proof["g1"]["codes"], proof["g2"]["codes"]) == (450, codes, codes)
  assert proof["g3"]["equal_predictions"] == 450 and proof["g3"]["top1"] > 90
  result = json.loads((workdir / "checkpoints" / "stage_b.json").read_text())
  assert proof["g3"]["fake_quantized_top1"] == pytest.approx(result["final_top1"], abs=1e-4)
  images, _ = next(saved.evaluation_images())
  expected = evaluator.evaluate(evaluator.load(folder), images)
  session = onnx_files.onnxruntime.InferenceSession(str(folder / "integer.onnx"))
  assert session.run(["logits"], {"image": images})[0].tobytes() == expected.logits.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("bits", [None, 8])
def test_every_way_to_run_it_is_exact(bits, saved):
  """At the selected bits, and with all layers at 8 bits, where most values lie near a tie; on digits and on noise."""
  chosen = {layer.name: bits or saved.bits[layer.name] for layer in saved.network.layers}
  made = folding.make_program(saved.network, saved.variables, chosen, saved.image_shape)
  files, runs = run.make_files(made, ("program", "stablehlo", "integer"))
  assert len(runs) == 2
  for threads in (1, 2):
    for optimize in (True, False):
      runs[f"integer.onnx, {threads} threads, {optimize=}"] = onnx_files.integer_run(
          made, files["integer.onnx"], threads, optimize)
  digits, _ = next(saved.evaluation_images())
  for images in (digits[:150], noise(np.random.default_rng(0), 150, saved.image_shape)):
    whole = evaluator.evaluate(made, images)
    for count in (1, 7, 150):
      assert certificate.compare_exactly(made, images[:count], runs) == count * sum(
          layer.input_elements for layer in saved.network.layers)
      assert evaluator.evaluate(made, images[:count]).logits.tobytes() == whole.logits[:count].tobytes()
