"""Images sorted into one folder per cluster, most typical first."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pyarrow as pa
from PIL import Image

from selfcluster.data.readers.folder import FolderImages, ListedImages
from selfcluster.data.readers.images import ENDINGS, EncodedImages, Images
from selfcluster.errors import ConfigError, DataError
from selfcluster.inference.names import write_names

_MOST_BYTES = 240
"""In a name of a file or folder; most file systems bear 255."""


def sort_into(folder: Path, table: pa.Table, images: Images, *, links: bool = False) -> int:
    """Create a folder for each cluster, called by its name or `cluster-07`, with its images, whose file names begin with their rank.

    The folder also gets a clusters.csv, from which `apply` makes the same clusters again, whatever has become of the run's in the meantime.

    Args:
        folder: created; must not exist, or be empty.
        table: from `clusters.cluster` or `clusters.assign`.
        images: the table's images. Encoded files are copied unchanged, also from tar files; other images are written as PNG.
        links: create symbolic links instead of copies.
    Returns:
        the number of images sorted.
    Raises:
        ConfigError: the folder is in use, or links are requested for images that are not files.
        DataError: a file no longer exists.
    """
    check_sortable(folder, images, links=links)
    unfinished = folder.absolute().with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        n = _fill(unfinished, table, images, links)
        if folder.is_dir():
            folder.rmdir()
        os.replace(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return n


def check_sortable(folder: Path, images: Images, *, links: bool) -> None:
    """Raise the ConfigError that `sort_into` would raise."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        there = "is a file" if folder.is_file() else f"already contains files, such as {min(path.name for path in folder.iterdir())!r}"
        raise ConfigError(f"--copy-to {str(folder)!r} {there}; name a new or empty folder")
    if isinstance(images, FolderImages) and folder.resolve().is_relative_to(images.root.resolve()):
        raise ConfigError(
            f"--copy-to {str(folder)!r} is inside the folder of images, where copies would count as images; choose another folder"
        )
    if not folder.absolute().parent.is_dir() or not os.access(folder.absolute().parent, os.W_OK):
        raise ConfigError(f"--copy-to {str(folder)!r} cannot be created in {str(folder.absolute().parent)!r}; choose another folder")
    if links and not isinstance(images, FolderImages | ListedImages):
        raise ConfigError("--links needs images that are single files; leave it out to copy them")


def _fill(folder: Path, table: pa.Table, images: Images, links: bool) -> int:
    clusters, ranks, names = (table[name].to_pylist() for name in ("cluster", "rank_in_cluster", "name"))
    n_digits, n_rank_digits = len(str(max(0, *clusters))), len(str(max(0, *ranks)))
    folder.mkdir(parents=True)
    write_names(table, folder / "clusters.csv")
    for index, (cluster, rank, name) in enumerate(zip(clusters, ranks, names, strict=True)):
        if cluster >= 0:
            number = f"cluster-{cluster:0{n_digits}}"
            within = folder / (_fitting(name, f"... {number}") if name else number)
            within.mkdir(exist_ok=True)
            file = Path(images.path(index)).name
            _put(
                images,
                index,
                within
                / _fitting(f"{rank:0{n_rank_digits}}-{file}", f"...{ending if (ending := Path(file).suffix).lower() in ENDINGS else ''}"),
                links,
            )
    return sum(cluster >= 0 for cluster in clusters)


def _fitting(name: str, end: str) -> str:
    """Return a name that file systems bear: as it is, or cut off, with another end."""
    if len(encoded := os.fsencode(name)) <= _MOST_BYTES:
        return name
    return encoded[: _MOST_BYTES - len(os.fsencode(end))].decode("utf-8", "ignore") + end


def _put(images: Images, index: int, target: Path, links: bool) -> None:
    encoded = images.encoded(index) if isinstance(images, EncodedImages) else None
    if isinstance(encoded, bytes) and target.suffix.lower() in ENDINGS:
        target.write_bytes(encoded)
    elif not isinstance(encoded, Path):
        pixels = images.decode(index).pixels.permute(1, 2, 0).numpy()
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(target.with_suffix(".png"))
    elif not encoded.is_file():
        raise DataError(f"{str(encoded)!r} no longer exists; nothing was copied")
    elif links:
        target.symlink_to(encoded.resolve())
    else:
        shutil.copy2(encoded, target)
