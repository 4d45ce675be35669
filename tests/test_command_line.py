"""What the commands share: one sentence on stderr and status 2."""

import subprocess
import sys

import pytest

from metamix_jax import command_line
from tests.helpers.files import ROOT


def test_stop_prints_one_sentence_and_ends_with_status_2(capsys):
  with pytest.raises(SystemExit) as ended:
    command_line.stop("report", ValueError("config.seed is -1; it must be 0 or more"))
  assert ended.value.code == 2
  assert capsys.readouterr() == ("", "report: config.seed is -1; it must be 0 or more\n")


@pytest.mark.parametrize("flag, words", [
    ("--confg=x", "confg"), ("--config=nowhere.py", "nowhere.py"),
    ("--config=configs/imagenet.py:resnet19", "resnet19")])
def test_wrong_flags_of_a_script_are_one_sentence(flag, words):
  result = subprocess.run(
      [sys.executable, "scripts/bops.py", flag], capture_output=True, text=True, cwd=ROOT, check=False)
  assert result.returncode == 2 and result.stdout == ""
  assert result.stderr.startswith("bops: ") and result.stderr.count("\n") == 1 and words in result.stderr
