"""What users call their images and runs, checked without loading torch, so that a typo is reported at once."""

from __future__ import annotations

from pathlib import Path

from selfcluster.errors import CheckpointError, DataError, suggestion

DATA_SETS = ("digits", "cifar10", "cifar100", "stl10", "fashion-mnist", "imagenette")
"""Data sets that are known by name."""


def check_images(given: str) -> None:
    """Check that something is there: a file, a folder, a pattern of several files, or a data set; raise DataError if not."""
    path, _ = split_column(given)
    if not (Path(path).expanduser().exists() or given in DATA_SETS or is_pattern(path)):
        hint = suggestion(given, DATA_SETS) or f"data sets: {', '.join(DATA_SETS)}"
        raise DataError(f"no file, folder or data set {given!r}; {hint}")


def split_column(given: str) -> tuple[str, str]:
    """Return the path, and the column of parquet files after the sign #; "" if none is named."""
    path, sign, column = given.rpartition("#")
    is_plain = not sign or Path(given).expanduser().exists()  # the name of a file may contain the sign
    return (given, "") if is_plain else (path, column)


def is_pattern(given: str) -> bool:
    """Return whether this can match several files."""
    return any(sign in given for sign in "*?[{")


def check_checkpoint(file: str) -> None:
    """Check that a checkpoint to import is there; raise CheckpointError if not."""
    if not Path(file).expanduser().is_file():
        raise CheckpointError(f"no file {file!r}; name a checkpoint of the original SwAV or DeepCluster-v2")


def check_run(folder: Path) -> None:
    """Check that this is a run folder; raise CheckpointError if not."""
    if not (folder / "config.toml").is_file():
        raise CheckpointError(f"{str(folder)!r} is not a run folder: it has no config.toml")
