"""Shows the formulas of docs/ on the site: a hook of mkdocs.yml. Browsers draw MathML without a script or a network."""

import re

from latex2mathml import converter

# What GitHub draws as well.
_FORMULA = re.compile(r"^```math\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def on_page_markdown(markdown: str, **unused_page) -> str:
  """Replaces each fenced block of LaTeX of a page by MathML."""
  return _FORMULA.sub(lambda found: converter.convert(found[1].strip(), display="block") + "\n", markdown)
