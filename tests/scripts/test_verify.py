"""A finished run, verified; and what is found where something was changed."""

import json
import subprocess
import sys

import pytest

from metamix_jax import experiment
from metamix_jax.reporting import saved_run
from metamix_jax.training.context import prepare
from tests.helpers.configs import digits_config, tiny_config
from tests.helpers.files import ROOT, load_script
from tests.helpers.saved_runs import write_run


def test_figures_of_the_files_against_the_summary(tmp_path):
  write_run(tmp_path, digits_config(), 10, 1)
  run = saved_run.read(tmp_path)
  result, = run.target_results
  (tmp_path / "selected_bits.json").write_text(json.dumps({"selected": result.bits}))
  run.summary.update(
      targets=[json.loads(json.dumps(result.to_json()))], uniform=[other.to_json() for other in run.uniform_results])
  checks = list(load_script("verify").check_files(run))
  assert len(checks) == 8 + 2 + 1 + 3 and all(saved == now for _, saved, now in checks)
  run.summary["targets"][0]["gbops"] += 1e-9
  run.summary["uniform"][1]["gbops"] = 1.0
  (tmp_path / "selected_bits.json").write_text(json.dumps({"selected": result.bits | {"head": 2}}))
  assert [what for what, saved, now in load_script("verify").check_files(run) if saved != now] == [
      "target 0.025, gbops", "target 0.025, selected_bits.json", "cost of all searched layers at 4 bits"]


def test_a_summary_that_lacks_a_figure_is_one_sentence(tmp_path):
  write_run(tmp_path, digits_config(), 10, 1)
  run, verify = saved_run.read(tmp_path), load_script("verify")
  run.summary.update(
      full_precision_top1=97.0, targets=[result.to_json() for result in run.target_results],
      uniform=[other.to_json() for other in run.uniform_results])
  assert verify._figures(run)[0] == 97.0
  run.summary["uniform"].pop()
  with pytest.raises(ValueError, match="'uniform' has 2 entries, and the phases have 3"):
    verify._figures(run)
  del run.summary["targets"]
  with pytest.raises(KeyError, match="targets"):
    verify._figures(run)


@pytest.mark.slow
def test_a_run_is_the_same_until_something_changes(data_dir, tmp_path):
  summary = experiment.run(prepare(tiny_config(data_dir)), tmp_path / "run")
  assert set(summary["fingerprints"]) == {"bit_selection", "stage_b"}

  def verify(folder):
    return subprocess.run(
        [sys.executable, "scripts/verify.py", folder], capture_output=True, text=True, cwd=ROOT, check=False)

  result = verify(tmp_path / "run")
  assert result.returncode == 0 and "same: " in result.stdout, result
  path = tmp_path / "run" / "report" / "summary.json"
  changed = json.loads(path.read_text())
  changed["targets"][0]["final_top1"] += 0.25
  path.write_text(json.dumps(changed))
  again = verify(tmp_path / "run")
  assert again.returncode == 1
  assert [line.split(":")[0] for line in again.stdout.splitlines() if "in the summary" in line] == [
      "target 0.0008, final_top1", "target 0.0008, final_top1 evaluated"]
  assert "2 of " in again.stdout.splitlines()[-1]
