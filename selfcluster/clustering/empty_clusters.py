"""Filling of empty k-means clusters from the largest cluster.

For each empty cluster, the largest one that contains two distinct points gives its point farthest from the centroid as a new centroid, and
with it the points nearer to that than to the old one. For choosing later donors, both then count as half the donor's size, so that several
empty clusters do not share one donor.

Source: DeepCluster, arXiv 1807.05520, section 3.1. Deviations: the paper moves the empty cluster's centroid next to that of a random
other one, which fails on repeated points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from selfcluster import distributed, randomness
from selfcluster.clustering.assignment import Partition, assign
from selfcluster.clustering.blocks import PointSource

_TIES = 0x5C
"""Key of the random draws."""


def fill_empty(source: PointSource, centroids: Tensor, current: Partition, seed: int, pins: list[tuple[int, int]] | None = None) -> int:
    """Fill empty clusters as long as some cluster has two distinct points; changes `centroids` and `current` in place.

    Args:
        seed: decides which of several clusters of equal size gives first.
        pins: receives (row, cluster) for each new centroid that is a point of this rank.
    Returns:
        number of clusters filled.
    """
    empties = (current.sizes == 0).nonzero()[:, 0].tolist()
    if not empties:
        return 0
    members, sizes = _Members(current.assignments, len(centroids)), current.sizes.tolist()
    counted_size = np.array(sizes, dtype=np.float64)
    ties = randomness.uniform(seed, _TIES, np.arange(len(sizes)), n=1)[:, 0]
    n_filled = 0
    for new in empties:
        split = None
        while split is None and counted_size.max() > 0:
            donor = int(np.lexsort((ties, counted_size))[-1])
            if sizes[donor] > 1:
                split = _split(source, centroids[donor], members[donor])
            if split is None:
                counted_size[donor] = 0
        if split is None:
            break
        centroids[new] = split.point
        members[donor], members[new] = split.stays, split.goes
        current.assignments[split.goes] = new
        total = torch.zeros(source.d + 1, dtype=source.sum_dtype, device=source.device)
        for block in source.rows(split.goes):
            total[0] += len(block)
            total[1:] += source.shifted(block).sum(dim=0, dtype=source.sum_dtype)
        total = distributed.all_reduce_sum(total)
        sizes[new], sizes[donor] = int(total[0]), sizes[donor] - int(total[0])
        if len(current.sums):
            current.sums[new], current.sums[donor] = total[1:], current.sums[donor] - total[1:]
        counted_size[donor] = counted_size[new] = counted_size[donor] / 2
        n_filled += 1
        if pins is not None and split.row is not None:
            pins.append((split.row, new))
    current.sizes.copy_(torch.tensor(sizes))
    return n_filled


def fill_empty_and_reassign(source: PointSource, centroids: Tensor, current: Partition, seed: int, chunk_bytes: int | None) -> None:
    """Fill the clusters that are empty after the last assignment, until none is left, or no cluster has two distinct points.

    A new centroid may take all points of another cluster, so points are assigned and empty clusters filled again, until nothing changes. This
    ends, since a point that has become a centroid stays with it: each iteration gives one more cluster a point that it keeps.
    """
    pins: list[tuple[int, int]] = []
    for _ in range(len(centroids)):
        if not fill_empty(source, centroids, current, seed, pins):
            break
        current.assignments = assign(source, centroids, None, chunk_bytes, with_sums=False).assignments
        for row, cluster in pins:
            current.assignments[row] = cluster
        current.sizes = distributed.all_reduce_sum(torch.bincount(current.assignments, minlength=len(centroids)))


class _Members:
    """This rank's rows of each cluster, from one sort; rows set later replace them."""

    def __init__(self, assignments: Tensor, k: int) -> None:
        self.order = assignments.argsort(stable=True)
        self.ends = torch.bincount(assignments, minlength=k).cumsum(dim=0).tolist()
        self.changed: dict[int, Tensor] = {}

    def __getitem__(self, cluster: int) -> Tensor:
        begin = self.ends[cluster - 1] if cluster else 0
        return self.changed.get(cluster, self.order[begin : self.ends[cluster]])

    def __setitem__(self, cluster: int, rows: Tensor) -> None:
        self.changed[cluster] = rows


@dataclass(frozen=True)
class _Split:
    """A cluster in two."""

    point: Tensor
    """The point that becomes a centroid."""
    row: int | None
    """Its row, if it is one of this rank's."""
    stays: Tensor
    """Rows that stay with the old centroid."""
    goes: Tensor
    """Rows that go with the new one."""


def _split(source: PointSource, centroid: Tensor, members: Tensor) -> _Split | None:
    """Split off a cluster's farthest point and the points nearer to it than to the centroid; None if all points are equal."""
    to_centroid = _squared_distances(source, members, centroid)
    at = int(to_centroid.argmax()) if len(members) else 0
    farthest = to_centroid[at : at + 1] if len(members) else to_centroid.new_full((1,), -1.0)
    owner = int(distributed.gather_rows(farthest).argmax())
    row = int(members[at]) if owner == distributed.rank() else None
    point = source.of_rank(owner, row or 0)
    equal = _by_block(source, members, lambda block: (block == point).all(dim=1))
    if not distributed.any_rank(bool((~equal).any())):
        return None
    goes = equal | (_squared_distances(source, members, point) < to_centroid)
    if not distributed.any_rank(bool((~goes).any())):
        goes = equal  # the centroid was far from all of them: every other point stays
    return _Split(point, row, members[~goes], members[goes])


def _squared_distances(source: PointSource, rows: Tensor, point: Tensor) -> Tensor:
    """In float64, or points that differ by very little would be at distance 0."""
    return _by_block(source, rows, lambda block: (block.to(source.sum_dtype) - point.to(source.sum_dtype)).square().sum(dim=1))


def _by_block(source: PointSource, rows: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """Compute one value for each of these rows, block by block."""
    nothing = torch.empty(0, source.d, dtype=source.dtype, device=source.device)
    return torch.cat([compute(nothing), *(compute(block) for block in source.rows(rows))])
