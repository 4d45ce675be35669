"""Files are written atomically or not at all, and what cannot be written is one sentence."""

import concurrent.futures
import json
import pathlib
import threading

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


def test_two_writers_of_one_file_do_not_take_each_others_part(tmp_path):
  """Both are half-way at the same time, as two runs are that share a folder of targets."""
  path, both = tmp_path / "facts.json", threading.Barrier(2)

  def write_slowly(partial, text):
    partial.write_text(text[:1])
    both.wait()
    partial.write_text(text)
    both.wait()

  def write(text):
    files.write_atomically(path, lambda partial: write_slowly(partial, text))

  with concurrent.futures.ThreadPoolExecutor(2) as threads:
    for written in [threads.submit(write, text) for text in ("first", "other")]:
      written.result()
  assert path.read_text() in ("first", "other") and list(tmp_path.iterdir()) == [path]


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
    files.write_atomically(tmp_path / "file", lambda partial: pathlib.Path("/dev/full").write_text("text"))


def test_looking_changes_nothing(tmp_path):
  (tmp_path / "there").write_text("content")
  files.check_writable(tmp_path / "there")
  files.check_writable(tmp_path / "new")
  assert (tmp_path / "there").read_text() == "content" and not (tmp_path / "new").exists()
  with pytest.raises(UserError, match=r"^'' cannot be written \(Is a directory\)"):
    files.check_writable("")


def test_looking_takes_away_nothing_that_another_process_writes(tmp_path, monkeypatch):
  path, unlink = tmp_path / "new", pathlib.Path.unlink

  def unlink_after_another_wrote(self, *arguments):
    path.write_text("the other's")
    unlink(self, *arguments)

  monkeypatch.setattr(pathlib.Path, "unlink", unlink_after_another_wrote)
  files.check_writable(path)
  assert path.read_text() == "the other's" and list(tmp_path.iterdir()) == [path]


def test_a_part_of_a_page_is_replaced(tmp_path):
  page = tmp_path / "page.md"
  page.write_text("before\n<!-- a -->\n\nold\n\n<!-- b -->\nafter\n")
  for _ in range(2):
    files.replace_between(page, "<!-- a -->", "<!-- b -->", "new\nlines\n")
    assert page.read_text() == "before\n<!-- a -->\n\nnew\nlines\n\n<!-- b -->\nafter\n"


@pytest.mark.parametrize("text", ["", "<!-- a -->", "<!-- b -->", "<!-- b --> <!-- a -->"])
def test_a_page_without_its_comments_stays_as_it_is(text, tmp_path):
  page = tmp_path / "page.md"
  page.write_text(text)
  with pytest.raises(UserError, match="page.md has lost '<!-- a -->' or '<!-- b -->', between which a table belongs"):
    files.replace_between(page, "<!-- a -->", "<!-- b -->", "new")
  assert page.read_text() == text
  with pytest.raises(UserError, match="none.md cannot be read"):
    files.replace_between(tmp_path / "none.md", "<!-- a -->", "<!-- b -->", "new")
