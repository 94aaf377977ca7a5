"""Labels that the user passes in a file."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from selfcluster.data.readers.folder import FolderImages
from selfcluster.data.readers.images import Images, read_array
from selfcluster.data.readers.labels import labels_of
from selfcluster.errors import DataError


def set_labels(images: Images, labels: str) -> None:
    """Give images the labels that the setting names: auto (keep them), none, a CSV file (path, label) or a .npy file.

    Raises:
        DataError: the file cannot be read or does not fit the images.
    """
    if labels == "auto":
        return
    if labels == "none":
        images.labels = None
    elif labels.endswith(".npy"):
        values = read_array(Path(labels))
        if not isinstance(values, np.ndarray):
            raise DataError(f"{labels!r} is an archive of arrays; save the labels alone with np.save")
        images.labels = labels_of(values, len(images))
    elif labels.endswith(".csv"):
        images.labels = labels_of(_read_csv(Path(labels), images), len(images))
    else:
        raise DataError(f"labels {labels!r} must be auto, none, a .csv file with lines path,label, or a .npy file")


def _names_of(path: str, root: Path | None) -> Iterator[str]:
    """Yield what a file of labels may call an image: as we do, with its folder, or by its absolute path."""
    yield path
    if root is not None:
        yield str(root / path)
        yield str(root.resolve() / path)


def _read_csv(file: Path, images: Images) -> list[str]:
    """Return the label of each image, empty for an image without one."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = {row[0].strip(): row[1].strip() for row in csv.reader(lines) if len(row) >= 2}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read labels from {str(file)!r}: {error}") from None
    root = images.root if isinstance(images, FolderImages) else None
    values = [next((rows[name] for name in _names_of(images.path(index), root) if name in rows), "") for index in range(len(images))]
    if not any(values):
        raise DataError(f"no path in {str(file)!r} matches an image; the first image is {images.path(0)!r}")
    # A negative number means no label, as in an array.
    return ["" if value.startswith("-") and value[1:].isdigit() else value for value in values]
