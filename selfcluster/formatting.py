"""Formatting of numbers, durations and tables."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from typing import Any

_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069\ud800-\udfff]")
"""Characters that move the cursor, color a terminal or turn the direction of writing, and bytes of a path that are no text."""


def visible(text: str) -> str:
    """Return the text with control characters as escapes, since names of files may contain what commands a terminal."""
    return _INVISIBLE.sub(lambda found: ascii(found.group())[1:-1], text)


def command(*words: object) -> str:
    """Return a command of selfcluster to paste, without the words that are None or empty."""
    return shlex.join(["selfcluster", *(str(word) for word in words if word is not None and word != "")])


def n_images(n: int) -> str:
    """Format a number of images: 1 image, 4,968 images."""
    return f"{n:,} image{'' if n == 1 else 's'}"


def duration(seconds: float) -> str:
    """Format a duration: 45 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def table(rows: Iterable[Iterable[str]], *, right: Iterable[int] = ()) -> str:
    """Format rows of text as columns; those in `right` are aligned to the right."""
    rows = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = (
        (cell.rjust(width) if i in right else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    )
    return "\n".join("  ".join(row).rstrip() for row in aligned)


def figure(value: float) -> str:
    """Format a number to three digits, with an exponent only for very small and large ones."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
        return f"{value:,.{digits}f}"
    return f"{value:.2g}"


def short(value: Any) -> str:
    """Format the value of a setting as the command line accepts it: tuples without parentheses, floats without trailing zeros."""
    if isinstance(value, tuple):
        return " ".join(short(part) if not isinstance(part, tuple) else "-".join(map(str, part)) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
