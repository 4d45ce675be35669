"""The modules of scripts/claims, and the scripts that import them from their own folder."""

import pytest

from tests.helpers.files import ROOT, load_script

with pytest.MonkeyPatch.context() as patch:
  patch.syspath_prepend(str(ROOT / "scripts"))
  from claims import ablations, page, results, statements, verdicts
  ledger = load_script("ledger")
  instruction_sets, refinement = load_script("instruction_sets"), load_script("refinement")
  search_settings = load_script("search_settings")

__all__ = [
    "ablations", "instruction_sets", "ledger", "page", "refinement", "results", "search_settings", "statements",
    "verdicts"]
