"""Export of a run's network; one format per file."""
