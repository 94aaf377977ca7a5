"""Measuring a run: by labels where there are any, and by what needs none; one evaluator a file."""
