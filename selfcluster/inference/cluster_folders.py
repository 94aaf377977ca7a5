"""Images sorted into a folder for each cluster, most typical first."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from selfcluster.data.readers.folder import FolderImages, ListedImages
from selfcluster.data.readers.images import ENDINGS, EncodedImages, Images
from selfcluster.errors import ConfigError, DataError


def sort_into(folder: Path, table: pa.Table, images: Images, *, links: bool = False) -> int:
    """The folder holds one for each cluster, such as `cluster-07`, with its images, whose names begin with their rank.

    Args:
        folder: is made; must not be there yet, or be empty.
        table: of `clusters.cluster` or `clusters.assign`.
        images: those that the table tells of. Those in files are copied as they are, also out of tar files; others are written as PNG.
        links: symbolic links instead of copies.
    Returns:
        how many images are there.
    Raises:
        ConfigError: the folder is in use, or links are asked for where there are no files.
        DataError: a file is not there any more.
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
    """Raises ConfigError where `sort_into` would refuse."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ConfigError(
            f"--copy-to {str(folder)!r} {'is a file' if folder.is_file() else 'holds files already'}; name a folder that is new or empty"
        )
    if isinstance(images, FolderImages) and folder.resolve().is_relative_to(images.root.resolve()):
        raise ConfigError(f"--copy-to {str(folder)!r} lies among the images, where copies would count as images; choose another place")
    if not folder.absolute().parent.is_dir() or not os.access(folder.absolute().parent, os.W_OK):
        raise ConfigError(f"--copy-to {str(folder)!r} cannot be made in {str(folder.absolute().parent)!r}; choose another place")
    if links and not isinstance(images, FolderImages | ListedImages):
        raise ConfigError("--links wants images in files of their own; leave it out, and they are copied")


def _fill(folder: Path, table: pa.Table, images: Images, links: bool) -> int:
    clusters, ranks = (table[name].to_numpy() for name in ("cluster", "rank_in_cluster"))
    wide, n = len(str(max(0, clusters.max()))), 0
    folder.mkdir(parents=True)
    for cluster in sorted(set(clusters[clusters >= 0].tolist())):
        (folder / f"cluster-{cluster:0{wide}}").mkdir()
    deep = len(str(max(0, ranks.max())))
    for index, (cluster, rank) in enumerate(zip(clusters.tolist(), ranks.tolist(), strict=True)):
        if cluster >= 0:
            target = folder / f"cluster-{cluster:0{wide}}" / f"{rank:0{deep}}-{Path(images.path(index)).name}"
            _put(images, index, target, links)
            n += 1
    return n


def _put(images: Images, index: int, target: Path, links: bool) -> None:
    encoded = images.encoded(index) if isinstance(images, EncodedImages) else None
    if isinstance(encoded, bytes) and target.suffix.lower() in ENDINGS:
        target.write_bytes(encoded)
    elif not isinstance(encoded, Path):
        pixels: Any = images.decode(index).pixels.permute(1, 2, 0).numpy()
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(target.with_suffix(".png"))
    elif not encoded.is_file():
        raise DataError(f"{str(encoded)!r} is not there any more; nothing was copied")
    elif links:
        target.symlink_to(encoded.resolve())
    else:
        shutil.copy2(encoded, target)
