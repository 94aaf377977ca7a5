"""A run on disk: its folder, checkpoints, weights and log. No training here."""
