"""The ledger of the paper's claims: what is run for each, how it is judged, and the page of the results."""
