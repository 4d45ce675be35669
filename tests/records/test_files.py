"""Files are written atomically or not at all, and what cannot be written is one sentence."""

import json

import pytest

from metamix_jax.errors import UserError
from metamix_jax.records import files


def test_json_is_written_with_its_folder(tmp_path):
  path = tmp_path / "report" / "summary.json"
  files.write_json(path, {"β": [1, 2.5], "none": None})
  assert path.read_bytes() == json.dumps({"β": [1, 2.5], "none": None}, indent=2).encode() + b"\n"
  assert [entry.name for entry in path.parent.iterdir()] == ["summary.json"]


def test_a_write_that_fails_leaves_the_earlier_file(tmp_path):
  path = tmp_path / "file"
  files.write_text(path, "earlier")

  def fail(partial):
    partial.write_text("half")
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    files.write_atomically(path, fail)
  assert path.read_text() == "earlier" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place, reason", [("regular/report/file", "Not a directory"), ("folder", "Is a directory"),
                                           ("x" * 300, "File name too long"), ("/proc/none/file", "No such file")])
def test_what_cannot_be_written_is_one_sentence(place, reason, tmp_path):
  (tmp_path / "regular").write_text("")
  (tmp_path / "folder").mkdir()
  (tmp_path / "folder" / "inside").touch()
  path = tmp_path / place
  for write in (lambda: files.write_text(path, "text"), lambda: files.check_writable(path)):
    with pytest.raises(UserError) as caught:
      write()
    assert str(caught.value).startswith(f"'{path}' cannot be written (") and "\n" not in str(caught.value)
    assert f"({reason}" in str(caught.value)
  if place != "folder":
    with pytest.raises(UserError, match=rf"cannot be written \({reason}"):
      files.make_folder(path)
  assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder", "regular"]


def test_a_full_disk_is_one_sentence(tmp_path):
  with pytest.raises(UserError, match=r"file' cannot be written \(No space left on device\); free the place, or cho"):
    files.write_atomically(tmp_path / "file", lambda partial: open("/dev/full", "w").write(" " * 100_000))


def test_looking_changes_nothing(tmp_path):
  (tmp_path / "there").write_text("content")
  files.check_writable(tmp_path / "there")
  files.check_writable(tmp_path / "new")
  assert (tmp_path / "there").read_text() == "content" and not (tmp_path / "new").exists()
  with pytest.raises(UserError, match=r"^'' cannot be written \(it is a folder\)"):
    files.check_writable("")
