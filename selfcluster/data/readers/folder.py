"""Image files in a folder, nested or flat, or in a list."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from selfcluster.data.readers.images import ENDINGS, EncodedImages
from selfcluster.data.readers.labels import parent_folders
from selfcluster.errors import DataError
from selfcluster.formatting import n_images

PACKED = re.compile(rb"\.(tar(\.(gz|bz2|xz|zst|lz4|Z))?|tgz|tbz2?|txz|tzst|parquet)$", re.IGNORECASE)
"""Names of files that contain many images, including compressed ones, which are refused with a reason."""


class FolderImages(EncodedImages):
    """The image files below a folder, nested or flat.

    Args:
        root: the folder.
        max_megapixels: an image that declares more is refused before it is decoded.
        found: result of `scan`; None scans the folder.
    Raises:
        DataError: the folder does not exist or contains no images.
    """

    def __init__(self, root: str | Path, *, max_megapixels: float = 100.0, found: Listing | None = None) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise DataError(f"folder {str(root)!r} does not exist")
        found = found or scan(self.root)
        self.packed, self.n_skipped = found.packed, found.n_other + len(found.packed)
        if len(found.images) == 0:
            raise DataError(f"no images found in {str(root)!r}; looked for {' '.join(sorted(ENDINGS))}")
        super().__init__(found.images.take(pc.sort_indices(found.images)), max_megapixels=max_megapixels)
        self.labels = parent_folders(self.files)

    def encoded(self, index: int) -> Path:
        return self.root / self.path(index)

    def files_on_disk(self) -> Iterator[Path]:
        return map(self.encoded, range(len(self)))

    def contents(self) -> str:
        skipped = f"; {self.n_skipped:,} other files skipped" if self.n_skipped else ""
        packed = f", among them {self.packed[0]!r}; pass it as IMAGES to train on the images in it" if self.packed else ""
        return f"{n_images(len(self))}{skipped}{packed}"


class ListedImages(EncodedImages):
    """A list of image files, in the order given.

    Args:
        files: paths.
        max_megapixels: an image that declares more is refused before it is decoded.
    Raises:
        DataError: the list is empty or contains something else than paths.
    """

    def __init__(self, files: Sequence[Any], *, max_megapixels: float = 100.0) -> None:
        if not all(isinstance(file, str | Path) for file in files) or not files:
            raise DataError(f"the list of {len(files):,} items is not a list of paths to image files")
        super().__init__(
            pa.array([os.fsencode(Path(file).absolute()) for file in files], type=pa.large_binary()), max_megapixels=max_megapixels
        )

    def encoded(self, index: int) -> Path:
        return Path(self.path(index))

    def files_on_disk(self) -> Iterator[Path]:
        return map(self.encoded, range(len(self)))

    def contents(self) -> str:
        return n_images(len(self))


def _may_be_file(link: bytes) -> bool:
    return os.path.isfile(link) or not os.path.exists(link)


@dataclass(frozen=True)
class Listing:
    """Files below a folder, as paths relative to it."""

    images: pa.Array
    """Unsorted."""
    packed: tuple[str, ...]
    """Files that contain many images, sorted bytewise."""
    n_other: int


def scan(root: Path) -> Listing:
    """List the files below a folder.

    Hidden files and folders and run folders are skipped; links to folders are followed once. A pipe or a device is no image, whatever its
    name; a link to a file that is not there is one, which cannot be read.

    Raises:
        DataError: a folder cannot be listed.
    """
    chunks, packed, n_other, seen, folders = [], [], 0, set(), [b""]
    base = os.fsencode(root)
    while folders:
        folder = folders.pop()
        real = os.path.realpath(os.path.join(base, folder))
        if real in seen:
            continue
        seen.add(real)
        files, folders_here = [], []
        try:
            entries = list(os.scandir(os.path.join(base, folder)))
        except OSError as error:
            raise DataError(f"cannot list {os.fsdecode(os.path.join(base, folder))!r}: {error.strerror}") from None
        names = {entry.name for entry in entries}
        if folder and {b"config.toml", b"environment.json"} <= names:
            continue
        for entry in entries:
            path = folder + b"/" + entry.name if folder else entry.name
            if entry.name.startswith(b"."):
                continue
            # DirEntry.is_dir() raises for a link to itself; os.path.isdir does not, but costs a system call.
            if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                folders_here.append(path)
            elif not (entry.is_file(follow_symlinks=False) or (entry.is_symlink() and _may_be_file(entry.path))):
                n_other += 1
            elif os.path.splitext(entry.name)[1].lower().decode(errors="replace") in ENDINGS:
                files.append(path)
            elif PACKED.search(entry.name):
                packed.append(path)
            else:
                n_other += 1
        chunks.append(pa.array(files, type=pa.large_binary()))
        # Bytewise, so that of two paths to one folder the first is used, in whatever order the file system lists them.
        folders.extend(sorted(folders_here, reverse=True))
    return Listing(pa.concat_arrays(chunks), tuple(os.fsdecode(path) for path in sorted(packed)), n_other)
