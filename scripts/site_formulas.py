"""Shows the formulas of docs/ on the site, as a hook of mkdocs.yml; browsers draw MathML without a script."""

import re

from latex2mathml import converter

# GitHub draws these blocks as well.
_FORMULA = re.compile(r"^```math\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def on_page_markdown(markdown: str, **unused_page) -> str:
  """Replaces each fenced block of LaTeX on a page with MathML."""
  return _FORMULA.sub(lambda found: converter.convert(found[1].strip(), display="block") + "\n", markdown)
