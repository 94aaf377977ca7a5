"""Copies among images: the same file again, or the same picture resized, saved again, mirrored or cropped.

Features propose pairs, and the pixels of both images decide (`clustering.pixel_agreement`); only images of proposed pairs are decoded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn.functional import interpolate

from selfcluster.clustering.duplicates import complete_groups, proposed_pairs
from selfcluster.clustering.pixel_agreement import SIDE, compare
from selfcluster.data.readers.images import EncodedImages, Images
from selfcluster.device import in_threads
from selfcluster.distributed import logger
from selfcluster.errors import DataError

CORRELATION, STRUCTURE = 0.85, 1.5
"""Lowest correlation of the fine structure of two copies, and the least structure, in gray levels, by which they can be told."""
_CROPPED = 0.01
"""Change of scale from which a copy is cropped."""
_PAIRS = 512
"""Pairs compared at a time."""
_LARGEST = 64
"""Images in a group of possible copies of which every pair is compared."""


@dataclass(frozen=True)
class Copies:
    """Which images are copies of which."""

    first: Int64[np.ndarray, " n"]
    """For each image, the first of its copies; -1 for the first itself, and for an image without copies."""
    kinds: tuple[str | None, ...]
    """How it differs from the first: "exact", "saved again", "resized", "cropped" or "mirrored"; None where there is no copy."""


@dataclass(frozen=True)
class _Picture:
    """An image as it is compared."""

    colors: Float[Tensor, "3 s s"]
    size: tuple[int, int]
    pixels: bytes
    """Digest of the decoded pixels."""
    file: bytes
    """Digest of the file; that of the pixels for an array."""


def find_copies(
    images: Images, index: Int64[np.ndarray, " n"], features: Float[Tensor, "n f"], looks: Float[Tensor, "n t"], *, threads: int
) -> Copies:
    """Find the copies among images.

    Args:
        images: the images.
        index: those that are compared; rows of the other arguments, and of the result.
        features: centered, of unit norm.
        looks: `duplicates.thumbnails`.
        threads: threads that decode.
    """
    pairs = proposed_pairs(features, looks)
    rows = np.unique(pairs)
    found = in_threads(threads)(_reader(images), index[rows].tolist())
    pictures = {row: picture for row, picture in zip(rows.tolist(), found, strict=True) if picture is not None}
    if len(pictures) < len(rows):
        logger.warning(f"{len(rows) - len(pictures):,} images can no longer be read, and were not compared with their possible copies")
    same = _same_content(pictures)
    kinds = _kinds(pictures, {(same[left], same[right]) for left, right in pairs.tolist() if left in same and right in same})
    kinds |= _kinds(pictures, _left_out(kinds))
    first = complete_groups(len(index), kinds)
    of_copy = {row: kinds[head, row] for row, head in enumerate(first.tolist()) if head >= 0}
    for row, head in same.items():
        if head != row:
            first[row] = first[head] if first[head] >= 0 else head
            of_copy[row] = of_copy.get(head, "exact" if pictures[row].file == pictures[head].file else "saved again")
    return Copies(first, tuple(of_copy.get(row) for row in range(len(index))))


def _same_content(pictures: dict[int, _Picture]) -> dict[int, int]:
    """Return for each picture the first one with the same file or the same pixels."""
    first: dict[bytes, int] = {}
    return {row: min(first.setdefault(picture.file, row), first.setdefault(picture.pixels, row)) for row, picture in pictures.items()}


def _left_out(pairs: Collection[tuple[int, int]]) -> set[tuple[int, int]]:
    """Return the pairs within groups of connected rows that are not among the pairs; large groups, such as the frames of a film, have none."""
    if not pairs:
        return set()
    rows, places = np.unique(np.array(list(pairs)), return_inverse=True)
    left, right = places.reshape(-1, 2).T.astype(np.int32)  # older versions of SciPy take only int32
    graph = coo_array((np.ones(len(left), dtype=bool), (left, right)), shape=(len(rows), len(rows)))
    _, groups = connected_components(graph, directed=False)
    members = (rows[groups == group].tolist() for group in range(groups.max() + 1))
    return {pair for of_group in members if len(of_group) <= _LARGEST for pair in combinations(of_group, 2)} - set(pairs)


def _reader(images: Images) -> Callable[[int], _Picture | None]:
    """Return a function that decodes an image for comparison; None if it cannot be read."""

    def read(image: int) -> _Picture | None:
        try:
            encoded = images.encoded(image) if isinstance(images, EncodedImages) else None
            decoded = images.decode(image, lambda height, width: 2 * SIDE / min(height, width))
            file = encoded.read_bytes() if isinstance(encoded, Path) else encoded
        except (DataError, OSError):
            return None
        colors = interpolate(decoded.pixels[None].float(), (SIDE, SIDE), mode="bilinear", antialias=True)[0].expand(3, -1, -1)
        pixels = hashlib.blake2b(f"{decoded.size}".encode() + decoded.pixels.numpy().tobytes()).digest()
        return _Picture(colors, decoded.size, pixels, hashlib.blake2b(file).digest() if file else pixels)

    return read


def _kinds(pictures: dict[int, _Picture], pairs: set[tuple[int, int]]) -> dict[tuple[int, int], str]:
    """Return the pairs that are copies, and how the second differs from the first."""
    kinds, ordered = {}, sorted({(min(pair), max(pair)) for pair in pairs if pair[0] != pair[1]})
    for begin in range(0, len(ordered), _PAIRS):
        part = ordered[begin : begin + _PAIRS]
        agreement = compare(*(torch.stack([pictures[row].colors for row in side]) for side in zip(*part, strict=True)))
        is_copy = (agreement.correlation >= CORRELATION) & (agreement.structure >= STRUCTURE)
        for place in is_copy.nonzero()[:, 0].tolist():
            left, right = (pictures[row] for row in part[place])
            if agreement.is_mirrored[place]:
                kind = "mirrored"
            elif abs(float(agreement.scale[place]) - 1) > _CROPPED:
                kind = "cropped"
            else:
                kind = "resized" if left.size != right.size else "saved again"
            kinds[part[place]] = kind
    return kinds
