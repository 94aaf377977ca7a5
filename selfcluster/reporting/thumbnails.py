"""Thumbnails: every image small, some larger, joined to sheets, since thousands of single files would be much larger and slower.

A thumbnail shows what the encoder sees: the largest central square.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from selfcluster.data.crops import resize_center
from selfcluster.data.readers.images import Images
from selfcluster.device import in_threads
from selfcluster.errors import DataError

_GREY = 128
"""Of an image that cannot be read any more."""

_QUALITY = {"small": 65, "large": 72}
"""Of WebP. A small thumbnail is looked at for its colors and outline."""


@dataclass(frozen=True)
class Tiles:
    """Thumbnails as pixels."""

    small: NDArray[np.uint8]
    """(n, side, side, 3), one for each image."""
    large: NDArray[np.uint8]
    """(m, side, side, 3), for those that have one."""
    n_unreadable: int
    """Images that could be read once and cannot now; they are grey."""


@dataclass(frozen=True)
class Sheets:
    """Thumbnails side by side in files, row by row."""

    side: int
    columns: int
    """In a row; a full sheet has as many rows."""
    files: tuple[bytes, ...]
    """WebP."""


def small_side(n: int) -> int:
    """Side of the small thumbnails of so many images, in pixels: more images have smaller ones, so that the page stays within its size."""
    return 32 if n <= 50_000 else 24


def cut_tiles(
    images: Images, index: NDArray[np.int64], large_place: NDArray[np.int64], *, side: int, large_side: int, threads: int = 1
) -> Tiles:
    """Both thumbnails of each image; it is decoded once for both.

    Args:
        images: where they come from.
        index: which of them.
        large_place: for each the place of its large thumbnail among those, or -1 for none.
        side, large_side: in pixels.
        threads: that decode.
    """
    small = np.full((len(index), side, side, 3), _GREY, dtype=np.uint8)
    large = np.full((int((large_place >= 0).sum()), large_side, large_side, 3), _GREY, dtype=np.uint8)

    def cut(i: int) -> bool:
        wanted = large_side if large_place[i] >= 0 else side
        try:
            square = resize_center(images.decode(int(index[i]), lambda height, width: min(1.0, wanted / min(height, width))).pixels, wanted)
        except DataError:
            return False
        small[i] = resize_center(square.contiguous(), side).permute(1, 2, 0).numpy()
        if large_place[i] >= 0:
            large[large_place[i]] = square.permute(1, 2, 0).numpy()
        return True

    were_read = list(in_threads(1 if images.in_memory else threads)(cut, range(len(index))))
    return Tiles(small, large, were_read.count(False))


def sheets(tiles: NDArray[np.uint8], *, columns: int, size: str) -> Sheets:
    """The thumbnails as sheets.

    Args:
        tiles: (n, side, side, 3).
        columns: in a row; columns x side is at most 16,383 pixels, the most that WebP takes.
        size: "small" or "large", for the quality.
    """
    side = tiles.shape[1]
    files = []
    for start in range(0, len(tiles), columns * columns):
        part = tiles[start : start + columns * columns]
        rows = -(-len(part) // columns)
        grid = np.zeros((rows * columns, side, side, 3), dtype=np.uint8)
        grid[: len(part)] = part
        sheet = grid.reshape(rows, columns, side, side, 3).swapaxes(1, 2).reshape(rows * side, columns * side, 3)
        file = io.BytesIO()
        Image.fromarray(sheet).save(file, "WEBP", quality=_QUALITY[size], method=4)
        files.append(file.getvalue())
    return Sheets(side, columns, tuple(files))
