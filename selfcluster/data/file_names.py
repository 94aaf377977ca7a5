"""What the names of packed files mean: shell patterns for several files, and splits."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selfcluster.data.readers.folder import PACKED
from selfcluster.errors import DataError

TEST_SPLITS = ("val", "test", "valid", "validation")
"""Names of splits that are kept for evaluation; the first that exists is used."""

_SPLIT = re.compile(rf"(?:^|[-_./])(train|{'|'.join(TEST_SPLITS)})(?=[-_./])", re.IGNORECASE)


def is_packed(name: str) -> bool:
    """Return whether a file of this name contains many images."""
    return PACKED.search(os.fsencode(name)) is not None


def files_of(pattern: str) -> tuple[Path, tuple[str, ...]]:
    """Return the files that match a pattern, as a folder and names relative to it.

    Args:
        pattern: with `*`, `?`, `[...]` and `**` as in a shell, `{000..009}` for numbers and `{a,b}` for alternatives.
    Raises:
        DataError: no file matches, one of the numbers or alternatives is missing, or a file is neither tar nor parquet.
    """
    files: list[str] = []
    for one in _alternatives(os.path.expanduser(pattern)):
        found = sorted(glob.glob(one, recursive=True), key=os.fsencode) if glob.has_magic(one) else [one] * os.path.isfile(one)
        if not found:
            raise DataError(f"no file {one!r}{f' (from {pattern!r})' if one != pattern else ''}")
        files += found
    if other := [file for file in files if not is_packed(file)]:
        raise DataError(f"{other[0]!r} (from {pattern!r}) is neither .tar nor .parquet; for single images pass their folder")
    root = Path(os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files]))
    return root, tuple(os.path.relpath(file, root) for file in dict.fromkeys(files))


def absolute(pattern: str) -> str:
    """Return a pattern that matches the same files from any folder."""
    pattern = os.path.expanduser(pattern)
    return pattern if os.path.isabs(pattern) else os.path.join(glob.escape(os.getcwd()), pattern)


def _alternatives(pattern: str) -> list[str]:
    """Expand `a{1..3}` to a1, a2 and a3, and `{x,y}` to x and y; leading zeros of the first number are kept."""
    braces = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", pattern)
    if braces is None:
        return [pattern]
    if braces[3] is not None:
        parts = braces[3].split(",")
    else:
        first, last = int(braces[1]), int(braces[2])
        numbers = range(first, last + 1) if first <= last else range(first, last - 1, -1)
        parts = [f"{number:0{len(braces[1])}}" for number in numbers]
    tails = _alternatives(pattern[braces.end() :])
    return [pattern[: braces.start()] + part + tail for part in parts for tail in tails]


@dataclass(frozen=True)
class Splits:
    """Files by the split in their names."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    name: str
    """Name of the test split."""
    unused: tuple[str, ...]


def splits_among(names: Sequence[str]) -> Splits | None:
    """Find splits in the names of files or their folders, such as `train-00000-of-00002.parquet`; None without a training and a test split."""
    by_split: dict[str, list[str]] = {}
    for name in names:
        found = _SPLIT.findall(name.replace(os.sep, "/"))
        by_split.setdefault(found[-1].lower() if found else "", []).append(name)
    test = next((split for split in TEST_SPLITS if split in by_split), None)
    if "train" not in by_split or test is None:
        return None
    unused = [name for split, files in by_split.items() if split not in ("train", test) for name in files]
    return Splits(tuple(by_split["train"]), tuple(by_split[test]), test, tuple(unused))
