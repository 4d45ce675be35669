"""States, steps, devices, the training loop and the phases of a run (M10-M12, M14)."""
