"""Thumbnails: a small one for every image, a large one for some, joined into sheets, since thousands of files would be larger and slower.

A thumbnail shows what the encoder sees: the largest central square.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from selfcluster.data.crops import resize_center
from selfcluster.data.readers.images import Images
from selfcluster.device import in_threads
from selfcluster.errors import DataError

_GRAY = 128
"""Pixel value of an image that can no longer be read."""

_QUALITY = {"small": 65, "large": 72}
"""WebP quality by size; small thumbnails show only colors and outlines."""


@dataclass(frozen=True)
class Tiles:
    """Thumbnails as pixels."""

    small: NDArray[np.uint8]
    """(n, side, side, 3), one per image."""
    large: NDArray[np.uint8]
    """(m, side, side, 3), for some of the images."""
    n_unreadable: int
    """Images that can no longer be read; they are gray."""


@dataclass(frozen=True)
class Sheets:
    """Thumbnails in a grid, row by row, in one or more files."""

    side: int
    """Side of a thumbnail in pixels."""
    columns: int
    """Thumbnails in a row; a full sheet has as many rows."""
    files: tuple[bytes, ...]
    """WebP."""


def small_side(n_images: int) -> int:
    """Return the side of small thumbnails in pixels, smaller for many images to limit the size of the page."""
    return 32 if n_images <= 50_000 else 24


def cut_tiles(
    images: Images, index: NDArray[np.int64], large_place: NDArray[np.int64], *, side: int, large_side: int, threads: int = 1
) -> Tiles:
    """Return both thumbnails of each image, which is decoded once for both.

    Args:
        images: the source.
        index: images to read.
        large_place: place of each image's large thumbnail among the large ones; -1 for none.
        side: side of a small thumbnail in pixels.
        large_side: side of a large thumbnail in pixels.
        threads: threads that decode.
    """
    small = np.full((len(index), side, side, 3), _GRAY, dtype=np.uint8)
    large = np.full((int((large_place >= 0).sum()), large_side, large_side, 3), _GRAY, dtype=np.uint8)

    def cut(i: int) -> bool:
        needed = large_side if large_place[i] >= 0 else side
        try:
            square = resize_center(images.decode(int(index[i]), lambda height, width: min(1.0, needed / min(height, width))).pixels, needed)
        except DataError:
            return False
        small[i] = resize_center(square.contiguous(), side).permute(1, 2, 0).numpy()
        if large_place[i] >= 0:
            large[large_place[i]] = square.permute(1, 2, 0).numpy()
        return True

    were_read = list(in_threads(1 if images.in_memory else threads)(cut, range(len(index))))
    return Tiles(small, large, were_read.count(False))


def make_sheets(tiles: NDArray[np.uint8], *, columns: int, size: str, threads: int = 1) -> Sheets:
    """Join thumbnails into sheets.

    Args:
        tiles: (n, side, side, 3).
        columns: thumbnails in a row; columns x side is at most 16,383 pixels, the limit of WebP.
        size: "small" or "large", for the quality.
        threads: threads that compress.
    """
    side = tiles.shape[1]

    def compressed(start: int) -> bytes:
        part = tiles[start : start + columns * columns]
        rows = math.ceil(len(part) / columns)
        grid = np.zeros((rows * columns, side, side, 3), dtype=np.uint8)
        grid[: len(part)] = part
        sheet = grid.reshape(rows, columns, side, side, 3).swapaxes(1, 2).reshape(rows * side, columns * side, 3)
        file = io.BytesIO()
        Image.fromarray(sheet).save(file, "WEBP", quality=_QUALITY[size], method=4)
        return file.getvalue()

    return Sheets(side, columns, tuple(in_threads(threads)(compressed, range(0, len(tiles), columns * columns))))
