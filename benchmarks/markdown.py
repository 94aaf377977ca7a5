"""Markdown tables, and numbers as text."""

from __future__ import annotations

from typing import Any


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def ratio(spread: dict[str, float]) -> str:
    """Format a median with its range and number of turns, such as `0.97 (0.95 to 0.99, n = 5)`."""
    return f"{spread['median']:.2f} ({spread['min']:.2f} to {spread['max']:.2f}, n = {spread['n']})"


def mib(n_bytes: float) -> str:
    return f"{n_bytes / 2**20:,.0f} MiB"


def crops(settings: dict[str, Any]) -> str:
    """Format the crops of a run, such as `2 x 32 + 4 x 16`."""
    return " + ".join(f"{n} x {side}" for n, side in zip(settings["n_crops"], settings["crop_pixels"], strict=True))
