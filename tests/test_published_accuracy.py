"""The published accuracies: configs as they are, trained from nothing, as a user does."""

import json
import os
import subprocess
import sys

import pytest

from tests.helpers.files import ROOT

# Standard errors of a top-1 are those of its number of test images. Three of them on each side, because another machine
# rounds otherwise and so trains another network.


def train(config, workdir, data_dir):
  """Runs the command of the config in the environment of scripts/cpu_environment.sh; returns the summary."""
  command = [sys.executable, "-m", "metamix_jax.main", f"--config={ROOT}/configs/{config}.py", f"--workdir={workdir}",
             f"--config.data.data_dir={data_dir}"]
  subprocess.run(
      ["bash", "-c", 'source scripts/cpu_environment.sh; exec "$@"', "train", *command], cwd=ROOT, check=True,
      env=os.environ | {"XLA_FLAGS": ""})
  return json.loads((workdir / "report" / "summary.json").read_text())


@pytest.mark.slow
def test_digits(data_dir, tmp_path):
  """README: full precision of 99.11 %, final top-1 of 99.33 %, on 450 images, whose standard error is 0.4."""
  summary = train("digits", tmp_path, data_dir)
  target, = summary["targets"]
  assert target["gbops"] <= 0.025
  assert summary["full_precision_top1"] == pytest.approx(99.11, abs=1.2)
  assert target["final_top1"] == pytest.approx(99.33, abs=1.2)


@pytest.mark.slow
def test_digit_pairs(data_dir, tmp_path):
  """docs/evidence.md, seed 0 on CPUs: top-1 on 5,000 images, whose standard error is 0.55, and 0.63 at 3 bits."""
  summary = train("digit_pairs", tmp_path, data_dir)
  trained, *_ = summary["targets"]
  uniform = {result["bits"]: result["top1"] for result in summary["uniform"]}
  assert 0.995 * 0.07 <= trained["gbops"] <= 0.07 and trained["target_gbops"] == 0.07
  assert summary["full_precision_top1"] == pytest.approx(80.46, abs=1.7)
  assert trained["final_top1"] == pytest.approx(81.36, abs=1.7)
  # Of the same images and the same weights, so that their differences are surer than they are.
  assert summary["full_precision_top1"] - trained["final_top1"] < 1.5
  assert uniform[3] == pytest.approx(71.68, abs=1.9) and uniform[4] == pytest.approx(78.20, abs=1.7)
  assert uniform[3] < trained["meta_state_top1"] < uniform[4]
