"""Images that look the same: copies, resized or saved again.

Two of them are near each other in features, and thumbnails of a few pixels tell whether that is all there is to it: features alone
take two views of one object for copies, thumbnails alone take two blue skies.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

_N_NEIGHBORS = 4
"""Nearest images of the same cluster that are looked at."""
_COSINE, _DIFFERENCE = 0.99, 0.12
"""Features at least this alike; thumbnails at most this different, root mean square, in deviations of a photo's pixels (0.12 is 7 of 255)."""
_ROWS, _MOST = 2048, 16384
"""Compared at a time, and together at most: larger clusters are taken in parts."""


class _Thumbnails:
    """Of normalized images, 8 x 8 pixels a channel, as rows."""

    side = 8
    width = 3 * side * side

    def __call__(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n t"]:
        return adaptive_avg_pool2d(images.float(), self.side).flatten(1)


thumbnails = _Thumbnails()


def duplicates_of(
    features: Float[Tensor, "n f"], looks: Float[NDArray[np.float32], "n t"], assignments: Int64[Tensor, " n"]
) -> Int64[NDArray[np.int64], " n"]:
    """For each row the first row that looks the same, or -1 where none before it does.

    Args:
        features: not constant.
        looks: `thumbnails` of the same images.
        assignments: clusters; copies are looked for within each.
    """
    first, looks_ = np.arange(len(features)), torch.from_numpy(looks)
    order, sizes = assignments.argsort(stable=True), torch.bincount(assignments)
    for members in order.split(sizes.tolist()):
        for part in _in_parts(members, features):
            for row, other in _pairs(normalize(features[part]), looks_[part]):
                _join(first, int(part[row]), int(part[other]))
    roots = np.array([_root(first, row) for row in range(len(first))])
    return np.where(roots < np.arange(len(first)), roots, -1)


def _in_parts(members: Int64[Tensor, " m"], features: Float[Tensor, "n f"]) -> Iterator[Int64[Tensor, " _"]]:
    """A cluster whole, or where it is large in parts by the distance from its middle, which copies share."""
    if len(members) > _MOST:
        mean = features[members].mean(dim=0)
        members = members[torch.argsort(torch.cat([normalize(features[part]) @ mean for part in members.split(_ROWS)]))]
    yield from (part for part in members.split(_MOST) if len(part) > 1)


def _pairs(features: Float[Tensor, "m f"], looks: Float[Tensor, "m t"]) -> list[tuple[int, int]]:
    """Rows of one cluster that look the same."""
    found = []
    for start in range(0, len(features), _ROWS):
        cosines = features[start : start + _ROWS] @ features.T
        rows = torch.arange(start, start + len(cosines))
        cosines[torch.arange(len(cosines)), rows] = -1
        best = cosines.topk(min(_N_NEIGHBORS, len(features) - 1), dim=1)
        difference = (looks[best.indices] - looks[rows][:, None]).square().mean(dim=2).sqrt()
        for row, place in ((best.values >= _COSINE) & (difference <= _DIFFERENCE)).nonzero().tolist():
            found.append((start + row, int(best.indices[row, place])))
    return found


def _root(first: NDArray[np.int64], row: int) -> int:
    while first[row] != row:
        row = int(first[row])
    return row


def _join(first: NDArray[np.int64], a: int, b: int) -> None:
    """The two rows' groups are one, which goes by its first row."""
    a, b = _root(first, a), _root(first, b)
    first[max(a, b)] = min(a, b)
