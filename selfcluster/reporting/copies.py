"""Groups of copies on the page, with what a person needs to choose the one to keep."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from selfcluster.data.readers.images import EncodedImages, Images
from selfcluster.device import in_threads
from selfcluster.errors import DataError

Json = dict[str, Any]
"""An object of JSON."""


def copy_groups(images: Images, shown: pa.Table, *, n_groups: int, n_each: int, threads: int) -> tuple[list[Json], int]:
    """Return the largest groups of copies as JSON, and the number of all groups.

    A group has its points, how each differs from the first ("" for the first), its sides in pixels and bytes as far as they are known, and
    the place of the one to keep: the one with the most pixels, then the most bytes, then the first.

    Args:
        images: source of the images.
        shown: rows of the table that are points.
        n_groups: groups to return, at most.
        n_each: images of a group to return, at most.
        threads: that read headers of files.
    """
    kinds = shown["copy"].to_pylist() if "copy" in shown.column_names else [None] * len(shown)
    index = shown["index"].to_pylist()
    groups = defaultdict(list)
    for point, first in enumerate(shown["duplicate_of"].to_pylist()):
        groups[index[point] if first is None else first].append(point)
    largest = sorted((group for group in groups.values() if len(group) > 1), key=len, reverse=True)
    chosen = [group[:n_each] for group in largest[:n_groups]]
    points = [point for group in chosen for point in group]
    sizes = dict(zip(points, in_threads(threads)(lambda point: _size(images, index[point]), points), strict=True))
    return [
        {
            "points": group,
            "n": len(whole),
            "kinds": [kinds[point] or "" for point in group],
            "sizes": [sizes[point] for point in group],
            "keep": max(range(len(group)), key=lambda i: (sizes[group[i]][0] * sizes[group[i]][1], sizes[group[i]][2], -i)),
        }
        for group, whole in zip(chosen, largest, strict=False)
    ], len(largest)


def _size(images: Images, image: int) -> tuple[int, int, int]:
    """Return width, height and bytes of an image; 0 for what is not known."""
    try:
        height, width = images.decoded_size(image)
        if not isinstance(images, EncodedImages):
            return width, height, 0
        encoded = images.encoded(image)
        return width, height, encoded.stat().st_size if isinstance(encoded, Path) else len(encoded)
    except (DataError, OSError):
        return 0, 0, 0
