"""The paper as pure functions of arrays: quantisers, mixture, cost, losses, selection (M1-M9, M13)."""
