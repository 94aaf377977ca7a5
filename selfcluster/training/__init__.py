"""Training: what a run holds, its step, its loop, and what it costs."""
