"""The files of a run: names, checkpoints, metrics, results, summaries; stop requests and progress."""
