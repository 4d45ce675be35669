"""The script that imports torchvision's weights into a folder."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from metamix_jax.models import pretrained
from tests.helpers.files import ROOT
from tests.helpers.golden_weights import golden_state_dict

NETWORK = "mobilenet_v3_small"


def run_script(*arguments):
  return subprocess.run(
      [sys.executable, ROOT / "scripts" / "import_torchvision.py", *map(str, arguments)], capture_output=True,
      text=True, cwd=ROOT, check=False)


@pytest.mark.slow
def test_script_folder_and_file_load_the_same(tmp_path):
  file = tmp_path / "w.safetensors"
  save_file(golden_state_dict(NETWORK, 0), file)
  result = run_script(NETWORK, file, tmp_path / "imported")
  assert result.returncode == 0, result.stderr
  assert result.stdout == f"{tmp_path}/imported: mobilenet_v3_small, 210 arrays, 2,554,968 numbers.\n"
  like = pretrained.convert_file(file, NETWORK)
  from_folder = pretrained.load(str(tmp_path / "imported"), NETWORK, like)
  jax.tree.map(np.testing.assert_array_equal, from_folder, pretrained.load(str(file), NETWORK, like))
  again = run_script(NETWORK, file, tmp_path / "imported")
  assert (again.returncode, again.stdout) == (2, "")
  assert again.stderr == f"import_torchvision: {tmp_path}/imported exists already; choose another folder.\n"
