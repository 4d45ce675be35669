"""What is made of a saved run: figures, tables, the HTML page, sweeps. Imports nothing of training."""
