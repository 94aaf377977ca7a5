"""Nearest neighbors by cosine: exact, in chunks, on any device.

A row of cosines with 50,000 images is slow to search for its largest values. It is cut into blocks; the k largest values lie in the k blocks
with the largest maxima, so only those are searched.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

_BLOCK = 64
"""Cosines in a block."""
_CHUNK_ROWS, _CHUNK_BYTES = 8192, 2**26
"""Largest number of queries, and of bytes of cosines, that are computed together."""
_FEWEST_ROWS = 256
"""Queries computed together even if their cosines take more bytes: with fewer, a matrix product is slow."""


@torch.no_grad()
def nearest_neighbors(
    queries: Float[Tensor, "n f"], k: int, bank: Float[Tensor, "b f"] | None = None, *, device: torch.device | None = None
) -> tuple[Int64[Tensor, "n m"], Float[Tensor, "n m"]]:
    """Return the k rows of the bank with the largest cosine to each query, nearest first, and these cosines, on the CPU.

    Args:
        queries: finite rows; a row of zeros has a cosine of 0 with every other.
        k: at least 0; m is lower if the bank has fewer rows.
        bank: rows to search, of unit norm; None to search the queries, where no row is its own neighbor.
        device: where to compute; None for the queries' device.
    """
    device = device or queries.device
    unit = normalize(queries.to(device)) if bank is None else bank.to(device)
    n = len(unit)
    k = max(0, min(k, n if bank is not None else n - 1))
    n_blocks = -(-n // _BLOCK)
    in_blocks = n_blocks > 4 * k  # otherwise the blocks would contain most of the row
    rows = min(_CHUNK_ROWS, max(_FEWEST_ROWS, _CHUNK_BYTES // (4 * max(1, n))))
    # One piece of memory for the cosines of every chunk, since fresh memory is slow; the last block is filled up.
    memory = torch.full((min(rows, len(queries)), n_blocks * _BLOCK), -torch.inf, dtype=unit.dtype, device=device)
    found: list[tuple[Tensor, Tensor]] = []
    for i, part in enumerate(queries.split(rows)):
        padded = memory[: len(part)]
        scores = torch.mm(normalize(part.to(device)), unit.T, out=padded[:, :n])
        if bank is None:
            scores.diagonal(i * rows).fill_(-torch.inf)
        if in_blocks:
            blocks = padded.unflatten(1, (n_blocks, _BLOCK))
            best = blocks.amax(dim=2).topk(k).indices
            cosine, place = blocks.gather(1, best[:, :, None].expand(-1, -1, _BLOCK)).flatten(1).topk(k)
            index = best.gather(1, place // _BLOCK) * _BLOCK + place % _BLOCK
        else:
            cosine, index = scores.topk(k)
        found.append((index.cpu(), cosine.cpu()))
    index, cosine = (torch.cat(parts) for parts in zip(*found, strict=True))
    return index, cosine


def nearest_centroids(
    points: Float[Tensor, "n d"], centroids: Float[Tensor, "l d"], clusters: Int64[Tensor, " l"]
) -> tuple[Int64[Tensor, " n"], Float[Tensor, " n"]]:
    """Return the nearest centroid of each point by cosine, and how much farther the nearest one of another cluster is.

    Args:
        points: compared by cosine.
        centroids: of unit norm.
        clusters: cluster of each centroid.
    """
    found, margins = [], []
    for part in points.split(_CHUNK_ROWS):
        cosine = normalize(part) @ centroids.T
        best, centroid = cosine.max(dim=1)
        others = cosine.masked_fill(clusters == clusters[centroid][:, None], -torch.inf)
        found.append(centroid)
        margins.append(best - others.amax(dim=1))
    return torch.cat(found), torch.cat(margins)


def margins_of(
    points: Float[Tensor, "n d"], of_points: Int64[Tensor, " n"], centroids: Float[Tensor, "l d"], clusters: Int64[Tensor, " l"]
) -> Float[Tensor, " n"]:
    """Return how much farther the nearest centroid of another cluster is than that of a point's own; below 0 where it is nearer."""
    margins = []
    for part, own in zip(points.split(_CHUNK_ROWS), of_points.split(_CHUNK_ROWS), strict=True):
        cosine, is_own = normalize(part) @ centroids.T, clusters == own[:, None]
        margins.append(cosine.masked_fill(~is_own, -torch.inf).amax(dim=1) - cosine.masked_fill(is_own, -torch.inf).amax(dim=1))
    return torch.cat(margins)
