"""Figures, tables, the HTML page and sweeps of saved runs; imports nothing of training."""
