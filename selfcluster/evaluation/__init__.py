"""Evaluation of a run with and without labels; one evaluator per file."""
