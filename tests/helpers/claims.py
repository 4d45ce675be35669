"""The modules of scripts/claims, which scripts/ledger.py imports from its own folder."""

import pytest

from tests.helpers.files import ROOT, load_script

with pytest.MonkeyPatch.context() as patch:
  patch.syspath_prepend(str(ROOT / "scripts"))
  from claims import ablations, page, results, statements, verdicts
  ledger = load_script("ledger")

__all__ = ["ablations", "ledger", "page", "results", "statements", "verdicts"]
