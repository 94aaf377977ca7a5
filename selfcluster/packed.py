"""What DATA means where images are packed: one file, several by a pattern, or those in a folder, and which of them are splits."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selfcluster.errors import DataError
from selfcluster.images import PACKED, EncodedImages
from selfcluster.parquet import ParquetImages
from selfcluster.shards import TarImages

TEST_SPLITS = ("val", "test", "valid", "validation")
"""Names of what is kept for evaluation; the first that is there is taken."""
_SPLIT = re.compile(rf"(?:^|[-_./])(train|{'|'.join(TEST_SPLITS)})(?=[-_./])", re.IGNORECASE)


@dataclass(frozen=True)
class Splits:
    """Files by the split that their names tell."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    name: str
    """Of the test split."""
    unused: tuple[str, ...]


def is_packed(name: str) -> bool:
    """Whether a file of this name holds many images, so far as names tell."""
    return PACKED.search(os.fsencode(name)) is not None


def is_pattern(given: str) -> bool:
    """Whether this can stand for several files."""
    return any(sign in given for sign in "*?[{")


def open_packed(root: Path, names: Sequence[str], *, column: str, max_megapixels: float) -> EncodedImages:
    """The images in these files, which are all of one kind.

    Args:
        root: the folder that their names are relative to.
        names: of the files.
        column: of parquet files, that holds the images; "" for the only one that can.
        max_megapixels: an image that declares more is refused before it is decoded.
    Raises:
        DataError: files of two kinds, or that cannot be read.
    """
    in_tables = [name for name in names if name.lower().endswith(".parquet")]
    if not in_tables:
        if column:
            raise DataError(f"#{column} would be a column of parquet files, but {str(root / names[0])!r} is a tar; leave it out")
        return TarImages(root, names, max_megapixels=max_megapixels)
    if len(in_tables) < len(names):
        raise DataError(
            f"{str(root)!r} holds both tar and parquet files; choose, as in {str(root / '*.tar')!r} or {str(root / '*.parquet')!r}"
        )
    n_copies = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return ParquetImages(root, names, column=column, max_megapixels=max_megapixels, n_copies=n_copies)


def splits_among(names: Sequence[str]) -> Splits | None:
    """Splits, where some files or their folders are called train and others val, test, valid or validation: `train-00000-of-00002.parquet`."""
    of: dict[str, list[str]] = {}
    for name in names:
        found = _SPLIT.findall(name.replace(os.sep, "/"))
        of.setdefault(found[-1].lower() if found else "", []).append(name)
    test = next((split for split in TEST_SPLITS if split in of), None)
    if "train" not in of or test is None:
        return None
    unused = [name for split, files in of.items() if split not in ("train", test) for name in files]
    return Splits(tuple(of["train"]), tuple(of[test]), test, tuple(unused))


def files_of(pattern: str) -> tuple[Path, tuple[str, ...]]:
    """The files that a pattern stands for, as a folder and names relative to it.

    Args:
        pattern: with `*`, `?`, `[...]` and `**` as in a shell, `{000..009}` for numbers and `{a,b}` for alternatives.
    Raises:
        DataError: there is none, one of the numbers or alternatives is missing, or there are files of another kind.
    """
    files: list[str] = []
    for one in _alternatives(os.path.expanduser(pattern)):
        found = sorted(glob.glob(one, recursive=True), key=os.fsencode) if glob.has_magic(one) else [one] * os.path.isfile(one)
        if not found:
            raise DataError(f"no file {one!r}{f', which {pattern!r} asks for' if one != pattern else ''}")
        files += found
    if other := [file for file in files if not is_packed(file)]:
        raise DataError(f"{other[0]!r}, which {pattern!r} stands for, is neither .tar nor .parquet; for single images give their folder")
    root = Path(os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files]))
    return root, tuple(os.path.relpath(file, root) for file in dict.fromkeys(files))


def absolute(pattern: str) -> str:
    """The same pattern from any folder."""
    pattern = os.path.expanduser(pattern)
    return pattern if os.path.isabs(pattern) else os.path.join(glob.escape(os.getcwd()), pattern)


def _alternatives(pattern: str) -> list[str]:
    """`a{1..3}` stands for a1, a2 and a3; `{x,y}` for x and y. Zeros in front of the first number are kept."""
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
