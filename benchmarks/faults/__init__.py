"""Faults injected into runs, with recorded figures: `make faults`."""
