"""Near-duplicates: copies of an image, resized or re-saved.

Two images are copies if their features are near each other and their thumbnails of a few pixels agree. Features alone would match two views
of one object, thumbnails alone two blue skies.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

from selfcluster.clustering.neighbors import nearest_neighbors

_N_NEIGHBORS = 4
"""Nearest images of the same cluster that are compared."""
_COSINE, _DIFFERENCE = 0.99, 0.12
"""Lowest cosine of features; largest difference of thumbnails, root mean square, in deviations of a photo's pixels (0.12 is 7 of 255)."""
_LARGEST = 16384
"""Images compared with each other, at most; larger clusters are divided."""
_ROWS = 2048
"""Rows normalized at a time."""


class _Thumbnails:
    """Normalized images averaged to 8 x 8 pixels per channel, as rows."""

    side = 8
    width = 3 * side * side

    def __call__(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n t"]:
        return adaptive_avg_pool2d(images.float(), self.side).flatten(1)


thumbnails = _Thumbnails()


def duplicates_of(
    features: Float[Tensor, "n f"], looks: Float[NDArray[np.float32], "n t"], assignments: Int64[Tensor, " n"]
) -> Int64[NDArray[np.int64], " n"]:
    """Return for each row the first row that is a copy of it, or -1 if it is the first or has no copy.

    Args:
        features: not constant.
        looks: `thumbnails` of the same images.
        assignments: clusters; copies are searched within each.
    """
    pixels, pairs = torch.from_numpy(looks), [torch.empty(2, 0, dtype=torch.int64)]
    for members in assignments.argsort(stable=True).split(torch.bincount(assignments).tolist()):
        if len(members) > _LARGEST:  # copies are at the same distance from the mean
            mean = features[members].mean(dim=0)
            members = members[torch.argsort(torch.cat([normalize(features[part]) @ mean for part in members.split(_ROWS)]))]
        for part in members.split(_LARGEST):
            for neighbor, cosine in zip(*(found.T for found in nearest_neighbors(features[part], _N_NEIGHBORS)), strict=True):
                difference = (pixels[part[neighbor]] - pixels[part]).square().mean(dim=1).sqrt()
                is_copy = (cosine >= _COSINE) & (difference <= _DIFFERENCE)
                pairs.append(torch.stack([part[is_copy], part[neighbor[is_copy]]]))
    left, right = torch.cat(pairs, dim=1).int().numpy()  # older versions of SciPy take only int32
    n = len(features)
    _, groups = connected_components(coo_array((np.ones(len(left), dtype=bool), (left, right)), shape=(n, n)), directed=False)
    first = np.unique(groups, return_index=True)[1][groups]
    return np.where(first < np.arange(n), first, -1)
