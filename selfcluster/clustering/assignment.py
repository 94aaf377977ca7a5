"""One assignment of all points to their nearest centroids, with the sums from which the next centroids follow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from selfcluster import distributed
from selfcluster.clustering.blocks import BLOCK_ROWS, PointSource


class Scorer:
    """Compares points with centroids, a chunk of rows at a time, in memory that is reused."""

    def __init__(self, centroids: Float[Tensor, "k d"], spherical: bool, chunk_bytes: int | None) -> None:
        if chunk_bytes is None:
            chunk_bytes = 1 << 24 if centroids.device.type == "cpu" else 1 << 28
        self.centroids = centroids
        self.bias = torch.zeros_like(centroids[:, 0]) if spherical else centroids.square().sum(dim=1) / 2
        self.rows = max(1, min(BLOCK_ROWS, chunk_bytes // (len(centroids) * centroids.element_size())))
        self.scores = centroids.new_empty(self.rows, len(centroids))

    def __call__(self, block: Float[Tensor, "n d"]) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """For each chunk, yield its rows, their nearest centroids, and the scores |c|^2 / 2 - x.c of all centroids (spherical: -x.c)."""
        for start in range(0, len(block), self.rows):
            part = slice(start, min(len(block), start + self.rows))
            scores = torch.addmm(self.bias, block[part], self.centroids.T, alpha=-1, out=self.scores[: part.stop - start])
            # numpy's argmin is five times as fast as torch's on the CPU.
            nearest = torch.from_numpy(scores.numpy().argmin(axis=1)) if scores.device.type == "cpu" else scores.argmin(dim=1)
            yield part, nearest, scores


@dataclass
class Partition:
    """Points in their clusters, after one assignment."""

    assignments: Tensor
    """Nearest centroid of each point of this rank."""
    sizes: Tensor
    """Points of each cluster, over all ranks."""
    sums: Tensor
    """Sum of each cluster's points over all ranks, after the shift; (k, d), float64."""
    inertia: float
    n_reassigned: int


def assign(
    source: PointSource, centroids: Tensor, previous: Partition | None, chunk_bytes: int | None, *, with_sums: bool = True
) -> Partition:
    """Assign every point to its nearest centroid, in one pass over the points.

    Sums are updated by the points that have changed their cluster since the previous assignment.
    """
    targets = source.shifted(centroids)
    scorer = Scorer(targets, source.spherical, chunk_bytes)
    assignments = torch.empty(source.n, dtype=torch.int64, device=source.device)
    change = torch.zeros(len(centroids) if with_sums else 0, source.d, dtype=source.sum_dtype, device=source.device)
    n_moved = torch.zeros(1, dtype=source.sum_dtype, device=source.device)
    for where, block in source.blocks():
        chosen = assignments[where]
        for part, nearest, _ in scorer(block):
            chosen[part] = nearest
        if previous is None:
            n_moved += len(block)
            if with_sums:
                change.index_add_(0, chosen, block.to(source.sum_dtype))
            continue
        before = previous.assignments[where]
        (moved,) = (chosen != before).nonzero(as_tuple=True)
        n_moved += len(moved)
        if with_sums:
            rows = block[moved].to(source.sum_dtype)
            change.index_add_(0, chosen[moved], rows).index_add_(0, before[moved], rows, alpha=-1)
    sizes = torch.bincount(assignments, minlength=len(centroids))
    counts = distributed.all_reduce_sum(torch.cat([sizes, n_moved]))
    sizes, change = counts[:-1].round().long(), distributed.all_reduce_sum(change)
    sums = change if previous is None or not with_sums else previous.sums + change
    inertia = float("nan")
    if with_sums:
        # |x - c|^2 = |x|^2 - 2 x.c + |c|^2, summed by cluster; spherical: 1 - x.c.
        wide = targets.to(source.sum_dtype)
        along = float((sums * wide).sum())
        spread = (
            source.n_total - along if source.spherical else source.squares - 2 * along + float((sizes * wide.square().sum(dim=1)).sum())
        )
        inertia = max(0.0, spread)
    return Partition(assignments, sizes, sums, inertia, round(float(counts[-1])))
