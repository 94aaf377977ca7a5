"""A run on disk: its folder, checkpoints, weights and log; opened to be used. No training here."""
