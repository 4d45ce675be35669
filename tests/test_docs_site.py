"""The documents: links and anchors lead somewhere, the site has every page, and the version stands in one place."""

import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys

import pytest
import yaml

import metamix_jax

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *(DOCS / page for page in PAGES)]

# [text](target), also over a line's end; a title after the target is not used here.
LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)")


def without_code(text: str) -> str:
  """Returns Markdown with fenced blocks and code spans cut out: brackets in them are not links."""
  text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
  return re.sub(r"`[^`\n]*`", "", text)


def anchors(text: str) -> set[str]:
  """Returns the anchors that a code host gives the headings of a Markdown file."""
  headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
  return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def dead_links(path: pathlib.Path) -> list[str]:
  """Returns the links of a Markdown file whose file or anchor does not exist; those to the web are not followed."""
  dead = []
  for target in LINK.findall(without_code(path.read_text())):
    if re.match(r"(https?|mailto):", target):
      continue
    name, _, anchor = target.partition("#")
    file = path.parent / name if name else path
    if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
      dead.append(target)
  return dead


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_and_anchors_resolve(path):
  assert dead_links(path) == []


def test_dead_links_are_found(tmp_path):
  (tmp_path / "other.md").write_text("# A heading: of `two` parts\n```\n# a comment\n```\n")
  page = tmp_path / "page.md"
  page.write_text("# Here\n[a](other.md) [b](other.md#a-heading-of-two-parts) [c](#here) [d](https://example.org/x)\n"
                  "`[e](code.md)` [f](gone.md) [g](other.md#a-comment) [two\nlines](#there)\n")
  assert dead_links(page) == ["gone.md", "other.md#a-comment", "#there"]


def nav_pages(entry) -> list[str]:
  """Returns the pages of an entry of nav in mkdocs.yml, in order."""
  if isinstance(entry, str):
    return [entry]
  return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in nav_pages(part)]


def test_navigation_has_every_page_once():
  text = (ROOT / "mkdocs.yml").read_text()
  nav = yaml.safe_load(text[text.index("\nnav:"):text.index("\ntheme:")])["nav"]
  assert sorted(nav_pages(nav)) == PAGES


def test_reference_lists_every_public_name_once():
  text = (DOCS / "reference" / "index.md").read_text()
  assert sorted(re.findall(r"^\| \[`(\w+)`\]", text, re.MULTILINE)) == sorted(metamix_jax.__all__)


def test_reference_has_every_part_of_the_package():
  text = "".join((DOCS / page).read_text() for page in PAGES)
  shown = re.findall(r"^::: metamix_jax\.(\w+)$", text, re.MULTILINE)
  package = ROOT / "metamix_jax"
  parts = {path.name for path in package.iterdir() if (path / "__init__.py").exists()}
  parts |= {path.stem for path in package.glob("*.py")} - {"__init__", "main"}
  assert sorted(shown) == sorted(parts)


def test_site_builds_without_a_warning(tmp_path):
  build = subprocess.run(
      [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path], cwd=ROOT, check=False,
      capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
  assert build.returncode == 0, build.stderr
  assert 'id="metamix_jax.method.bops.gbops"' in (tmp_path / "reference" / "method.html").read_text()
  # What a page loads comes from the site: it opens without a network.
  loads = re.compile(r'<(?:script|link|img)[^>]*(?:src|href)="https?://')
  assert [str(page) for page in tmp_path.rglob("*.html") if loads.search(page.read_text())] == []


def test_version_stands_in_one_place():
  citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
  assert citation["version"] == metamix_jax.__version__
  assert importlib.metadata.version("metamix_jax") == metamix_jax.__version__


def test_no_result_names_a_folder_of_the_machine_that_made_it():
  results = sorted((DOCS / "evidence").rglob("*.json"))
  assert len(results) > 20
  assert [path.name for path in results if re.search(r'"/(tmp|root|home|work|mnt|data)/', path.read_text())] == []
