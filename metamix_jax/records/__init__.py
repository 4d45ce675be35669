"""What a run leaves behind: names, files, checkpoints, metrics, summaries; and how it stops and reports progress."""
