"""From what the user calls DATA to batches of crops."""
