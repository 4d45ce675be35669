"""The command that trains."""

import subprocess
import sys

from tests.helpers.files import ROOT


def test_unknown_field_on_the_command_line(tmp_path):
  result = subprocess.run(
      [sys.executable, "-m", "metamix_jax.main", f"--config={ROOT}/configs/digits.py", f"--workdir={tmp_path}/run",
       "--config.arch.target_gbop=1"], capture_output=True, text=True, cwd=ROOT, check=False)
  assert result.returncode == 2
  assert "target_gbop" in result.stderr and "Traceback" not in result.stderr
  assert not (tmp_path / "run").exists()
