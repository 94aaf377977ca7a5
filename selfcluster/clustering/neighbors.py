"""The nearest neighbors of every image among all others, by cosine, computed in chunks and exactly.

A row of scores against 50,000 images is too long to look for its largest values one by one. It is cut into blocks; the k largest
values stand in the k blocks with the largest maxima, so only those are looked through.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

_BLOCK = 64
"""Scores of which only the largest is compared at first."""

_CHUNK_BYTES = 2**26
"""Of scores that are held at a time."""


def nearest_neighbors(features: Float[Tensor, "n f"], k: int) -> tuple[Int64[Tensor, "n m"], Float[Tensor, "n m"]]:
    """For each row the k other rows of largest cosine, nearest first, and these cosines.

    Args:
        features: finite rows; a row of zeros has a cosine of 0 with every other.
        k: at least 0; of fewer rows all others are given, so m = min(k, n - 1).
    """
    n = len(features)
    k = max(0, min(k, n - 1))
    n_blocks = -(-n // _BLOCK)
    unit = features.new_zeros(n_blocks * _BLOCK, features.shape[1])
    unit[:n] = normalize(features)
    index, cosine = torch.empty(n, k, dtype=torch.int64), torch.empty(n, k)
    rows = max(1, _CHUNK_BYTES // (4 * len(unit)))
    for start in range(0, n, rows):
        mine = torch.arange(start, min(start + rows, n))
        scores = unit[mine] @ unit.T
        scores[:, n:] = -torch.inf
        scores[torch.arange(len(mine)), mine] = -torch.inf
        cosine[mine], index[mine] = _largest(scores.unflatten(1, (n_blocks, _BLOCK)), k)
    return index, cosine


def _largest(scores: Float[Tensor, "r blocks b"], k: int) -> tuple[Float[Tensor, "r k"], Int64[Tensor, "r k"]]:
    """The k largest scores of each row, and their places in it."""
    block = scores.amax(dim=2).topk(min(k, scores.shape[1])).indices
    candidates = scores.gather(1, block[:, :, None].expand(-1, -1, scores.shape[2])).flatten(1)
    values, place = candidates.topk(k)
    return values, block.gather(1, place // scores.shape[2]) * scores.shape[2] + place % scores.shape[2]


def nearest_two(
    points: Float[Tensor, "n d"], vectors: Float[Tensor, "k d"]
) -> tuple[Int64[Tensor, " n"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """For each row the centroid of the largest cosine, the distance to it, 1 - cosine, and how much farther the next one is."""
    two = min(2, len(vectors))
    parts = [(normalize(part) @ vectors.T).topk(two, dim=1) for part in points.split(CHUNK_ROWS)]
    cosines, nearest = torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])
    margins = cosines[:, 0] - cosines[:, 1] if two == 2 else torch.full_like(cosines[:, 0], torch.inf)
    return nearest[:, 0], (1 - cosines[:, 0]).clamp(min=0), margins


CHUNK_ROWS = 8192
"""That are compared with all centroids at a time."""


def nearest_clusters(vectors: Float[Tensor, "k d"], n: int = 3) -> Iterator[list[int]]:
    """For each, the places of the n others that are nearest."""
    n = min(n, len(vectors) - 1)
    for start in range(0, len(vectors), CHUNK_ROWS):
        cosines = vectors[start : start + CHUNK_ROWS] @ vectors.T
        cosines[torch.arange(len(cosines)), torch.arange(start, start + len(cosines))] = -torch.inf
        yield from cosines.topk(n, dim=1).indices.tolist()
