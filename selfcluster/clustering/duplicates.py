"""Copies of an image: proposed by features, decided by pixels, and grouped so that every two of a group are copies of each other.

Two images are compared pixel by pixel (`pixel_agreement`) only if their features are near each other and their thumbnails of a few pixels
resemble each other, straight or mirrored.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

from selfcluster.clustering.neighbor_cells import near_neighbors

_N_NEIGHBORS = 8
"""Nearest images that are looked at."""
_PAIRS = 2**16
"""Pairs whose thumbnails are compared at a time."""
_COSINE, _RESEMBLANCE = 0.6, 0.7
"""Lowest cosine of centered features, and of thumbnails without their mean color, of a pair that is proposed."""


class _Thumbnails:
    """Normalized images averaged to 8 x 8 pixels per channel, as rows."""

    side = 8
    width = 3 * side * side

    def __call__(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n t"]:
        return adaptive_avg_pool2d(images.float(), self.side).flatten(1)

    def mirrored(self, rows: Float[Tensor, "n t"]) -> Float[Tensor, "n t"]:
        """Return the thumbnails of the mirrored images."""
        return rows.unflatten(1, (3, self.side, self.side)).flip(3).flatten(1)


thumbnails = _Thumbnails()


def proposed_pairs(features: Float[Tensor, "n f"], looks: Float[Tensor, "n t"]) -> Int64[np.ndarray, "p 2"]:
    """Return pairs of rows that may be copies, the earlier first, each once.

    Args:
        features: centered, of unit norm.
        looks: `thumbnails` of the same images.
    """
    first = _first_alike(looks.numpy())
    n = np.arange(len(first))
    different = torch.from_numpy(np.flatnonzero(first == n))  # many copies of one file would be each other's only neighbors
    all_different = len(different) == len(features)  # then they need not be copied
    neighbors, cosine = near_neighbors(features if all_different else features[different], _N_NEIGHBORS)
    is_near = cosine >= _COSINE
    left, right = different[is_near.nonzero()[:, 0]], different[neighbors[is_near]]
    pairs = torch.stack([left, right], dim=1)
    near = torch.cat([part[_resemble(looks[part[:, 0]], looks[part[:, 1]])] for part in pairs.split(_PAIRS)]).sort(dim=1).values.numpy()
    return np.unique(np.concatenate([near, np.stack([first, n], axis=1)[first < n]]), axis=0)


def _resemble(left: Float[Tensor, "p t"], right: Float[Tensor, "p t"]) -> Bool[Tensor, " p"]:
    """Return whether the thumbnails of each pair resemble each other without their mean color, straight or mirrored."""
    left, right = (
        normalize(rows - rows.unflatten(1, (3, -1)).mean(dim=2).repeat_interleave(thumbnails.side**2, dim=1)) for rows in (left, right)
    )
    return torch.maximum((left * right).sum(dim=1), (left * thumbnails.mirrored(right)).sum(dim=1)) >= _RESEMBLANCE


def _first_alike(looks: Float[np.ndarray, "n t"]) -> Int64[np.ndarray, " n"]:
    """Return for each row the first row with the same values."""
    whole = np.ascontiguousarray(looks).view(np.dtype((np.void, looks.dtype.itemsize * looks.shape[1])))[:, 0]
    _, first, group = np.unique(whole, return_index=True, return_inverse=True)
    return first[group]


def complete_groups(n: int, pairs: Iterable[tuple[int, int]]) -> Int64[np.ndarray, " n"]:
    """Group rows so that every two of a group are a pair, and return for each row the first of its group, or -1 for the first itself.

    Args:
        n: number of rows.
        pairs: rows that are copies of each other, the earlier first.
    """
    partners: dict[int, set[int]] = {}
    for left, right in pairs:
        partners.setdefault(left, set()).add(right)
        partners.setdefault(right, set()).add(left)
    first, groups = np.full(n, -1, dtype=np.int64), dict[int, set[int]]()
    for row in sorted(partners):
        fitting = (head for head in sorted(partners[row]) if head in groups and groups[head] <= partners[row])
        head = next(fitting, row)
        groups.setdefault(head, set()).add(row)
        if head != row:
            first[row] = head
    return first
