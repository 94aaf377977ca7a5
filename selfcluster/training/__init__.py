"""Training: the state of a run, its step and loop, collapse detection, and cost estimates."""
