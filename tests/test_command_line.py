"""What the commands share: one sentence on stderr and status 2."""

import os
import subprocess
import sys

import pytest

from metamix_jax import command_line
from metamix_jax.errors import UserError
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


PRINTS = """
import os, sys
from metamix_jax.command_line import exit_on_user_error

@exit_on_user_error("prints")
def main(path):
  for _ in range(3000):
    print("x" * 100)
  sys.stdout.flush()
  print("last", file=sys.stderr)
  open(path, "w").write("written last")

main(sys.argv[1])
"""


@pytest.mark.parametrize("stdout", [
    "| head -n 1", ">&-", "> /dev/full", "2>&1 >&- | cat", ">&- 2>&-", "2> /dev/full | head -n 1"])
def test_what_is_written_last_does_not_depend_on_what_is_printed(stdout, tmp_path):
  """A pipe whose reader is gone, a closed descriptor and a full disk."""
  (tmp_path / "prints.py").write_text(PRINTS)
  command = f"set -o pipefail; {sys.executable} {tmp_path}/prints.py {tmp_path}/out {stdout}"
  result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})
  assert result.returncode == 0 and "Error" not in result.stderr, result
  assert (tmp_path / "out").read_text() == "written last"


def test_streams_are_the_same_behind_a_command(capsys):
  before = sys.stdout, sys.stderr

  @command_line.exit_on_user_error("command")
  def main():
    print("printed")
    raise UserError("a sentence.")

  with pytest.raises(SystemExit):
    main()
  assert (sys.stdout, sys.stderr) == before
  assert capsys.readouterr() == ("printed\n", "command: a sentence.\n")


def test_a_file_that_cannot_be_read_is_one_sentence_and_other_exceptions_pass(capsys, tmp_path):
  with pytest.raises(SystemExit) as ended, command_line.exit_on_user_error("command"):
    (tmp_path / "none").read_text()
  assert ended.value.code == 2
  assert capsys.readouterr().err == (
      f"command: '{tmp_path}/none' cannot be read or written (No such file or directory).\n")
  for error in (KeyError("defect"), OSError("no file"), ValueError("no input of a user")):
    with pytest.raises(type(error)), command_line.exit_on_user_error("command"):
      raise error


@pytest.mark.parametrize("command, sentence", [
    (("scripts/bops.py", "--config="), "bops: the path of the config file is empty; it must be a Python file with"),
    (("-m", "metamix_jax.main", "--config=configs/digits.py", "--workdir="),
     "metamix_jax: workdir is empty; it must be a path."),
    (("scripts/report.py", ""), "report: workdir is empty; it must be a path."),
    (("scripts/compare_runs.py", "", ""), "compare_runs: workdir is empty; it must be a path."),
    (("scripts/import_torchvision.py", "resnet18", "none.pth", ""),
     "import_torchvision: OUT is empty; it must be a path."),
])
def test_an_empty_flag_is_no_file_and_no_folder(command, sentence):
  result = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT, check=False)
  assert result.returncode == 2 and result.stderr.count("\n") == 1 and result.stderr.startswith(sentence), result


def test_a_current_folder_that_was_deleted(monkeypatch, capsys):
  def getcwd():
    raise FileNotFoundError(2, "No such file or directory")

  monkeypatch.setattr(os, "getcwd", getcwd)
  with pytest.raises(SystemExit) as ended:
    command_line.flags_parser("bops")(["bops"])
  monkeypatch.undo()
  assert ended.value.code == 2
  assert capsys.readouterr().err == "bops: the current folder was deleted; change to another one.\n"
