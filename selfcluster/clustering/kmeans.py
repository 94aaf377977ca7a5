"""K-means: Lloyd's algorithm for everything here that clusters, from a thousand points to more than memory holds.

Assign each point to its nearest centroid, move each centroid to the mean of its points, repeat. Points are read in fixed blocks,
scores of points against centroids are made in chunks and never all at once, and sums are taken in float64, so that a tensor, an
array and a memory map give one result. Where a process group is initialized each rank passes its own, disjoint rows, and the
result is that of one process on the joined rows.

Empty clusters are filled from the largest: it gives the point farthest from its centroid as a new centroid. A cluster stays
empty only where there are fewer distinct points than clusters.

Source: DeepCluster, arXiv 1807.05520, section 3.1; Lloyd, "Least squares quantization in PCM", 1982.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from selfcluster import distributed, randomness
from selfcluster.clustering.blocks import BLOCK_ROWS, Points, PointSource, dtype_of


@dataclass(frozen=True)
class Clustering:
    """What `kmeans` found."""

    centroids: Float[Tensor, "k d"]
    assignments: Int64[Tensor, " n"]
    """Nearest of these centroids, for each point of this rank."""
    sizes: Int64[Tensor, " k"]
    """Points of each cluster, over all ranks."""
    inertia: tuple[float, ...]
    """Sum of squared distances (spherical: of 1 - cosine) over all ranks, one for each iteration: of its assignment against the
    centroids that enter it."""
    n_reassigned: tuple[int, ...]
    """Points that changed their cluster, one for each iteration; all of them in the first."""
    n_empty: int
    """Clusters without a point."""


def kmeans(
    points: Points,
    k: int,
    *,
    iterations: int = 20,
    spherical: bool = False,
    init: Literal["random", "k-means++"] | Tensor | np.ndarray = "random",
    empty: Literal["split", "keep"] = "split",
    tolerance: float = 0.0,
    chunk_bytes: int | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Clustering:
    """k centroids, each the mean of the points nearest to it.

    Args:
        points: this rank's rows, (n, d), a tensor or array of any kind of number; float64 is computed in float64, all else in
            float32. A memory map is read in blocks.
        k: clusters, at most as many as there are points over all ranks.
        iterations: rounds of assignment and update, at least 1. DeepCluster: 20; DeepCluster-v2: 10. A round that moves no point
            is repeated by all that follow, which are not computed.
        spherical: cluster by direction: points and centroids are brought to unit norm and compared by cosine.
        init: "random" (k different rows), "k-means++" (rows far from each other), or the centroids to begin with, (k, d).
        empty: "split" fills an empty cluster from the largest, "keep" leaves its centroid where it is, as DeepCluster-v2's code does.
        tolerance: stop when an iteration lowers the inertia by less than this share of it; 0 does all iterations.
        chunk_bytes: for the scores of points against centroids at a time; None for what suits the device.
        seed: starts and ties follow from it.
        device: where to compute; None for where the points are.
    Returns:
        the last centroids, and assignments and sizes of a last assignment against them, with empty clusters filled once more.
    Raises:
        ValueError: points that are not (n, d) or not finite, k below 1 or above the number of points, a start of another shape,
            or ranks that were called differently.
    Deviations: k-means++ draws in batches of an eighth of what it has, which takes some passes more than log k instead of k.
    Distances are those of float32, good to about 1e-6 of the squared extent of all points together: where clusters are a thousand times
    farther apart than they are wide, pass float64.
    """
    init = torch.from_numpy(init.astype(np.float64)) if isinstance(init, np.ndarray) else init
    _same_on_all_ranks(points, k, iterations, spherical, init, empty, tolerance, seed)
    _check_settings(k, iterations, empty, tolerance)
    source = PointSource(points, device, spherical)
    source.count()
    if source.n_total < k:
        raise ValueError(f"{source.n_total} points are fewer than k = {k} clusters; lower k")
    source.survey()
    centroids = source.as_centroids(_start(source, k, init, seed, chunk_bytes))
    found: _Assignment | None = None
    inertia: list[float] = []
    n_reassigned: list[int] = []
    for iteration in range(iterations):
        found = _assign(source, centroids, found, chunk_bytes)
        inertia.append(found.inertia)
        n_reassigned.append(found.n_reassigned)
        # Rounding may raise the inertia by a hair, which is no reason to stop where all iterations are asked for.
        if tolerance > 0 and iteration > 0 and inertia[-2] - inertia[-1] < tolerance * inertia[-2]:
            break
        n_filled = _fill(source, centroids, found, seed) if empty == "split" else 0
        if found.n_reassigned == 0 and n_filled == 0:
            if tolerance == 0:
                inertia += [inertia[-1]] * (iterations - len(inertia))
                n_reassigned += [0] * (iterations - len(n_reassigned))
            break
        centroids = source.as_centroids(_means(found, centroids, source))
    found = _assign(source, centroids, None, chunk_bytes, with_sums=False)
    if empty == "split":
        _fill_for_good(source, centroids, found, seed, chunk_bytes)
    n_empty = int((found.sizes == 0).sum())
    return Clustering(centroids, found.assignments, found.sizes, tuple(inertia), tuple(n_reassigned), n_empty)


def nearest(points: Points, centroids: Tensor, *, spherical: bool = False, chunk_bytes: int | None = None) -> tuple[Tensor, Tensor]:
    """The nearest centroid of each point (n,) int64, and the squared distance to it (spherical: 1 - cosine), (n,).

    Args:
        points: (n, d), this rank's.
        centroids: (k, d).
        spherical, chunk_bytes: as in `kmeans`.
    """
    source = PointSource(points, centroids.device, spherical)
    assignments = torch.empty(source.n, dtype=torch.int64, device=source.device)
    distances = torch.empty(source.n, dtype=source.dtype, device=source.device)
    targets = source.as_centroids(centroids)
    wide = targets.to(source.sums)
    source.move_from(wide.sum(dim=0), float(wide.square().sum()), len(wide))
    targets = source.moved(targets)
    scorer = _Scorer(targets, spherical, chunk_bytes)
    for where, block in source.blocks():
        for part, scores, chosen in scorer(block):
            least = scores.gather(1, chosen[:, None])[:, 0]
            rows = slice(where.start + part.start, where.start + part.stop)
            assignments[rows] = chosen
            distances[rows] = (1 + least).clamp(min=0) if spherical else (block[part] - targets[chosen]).square().sum(dim=1)
    return assignments, distances


def reassign_empty(
    points: Points, centroids: Tensor, assignments: Tensor, *, seed: int = 0, spherical: bool = False
) -> tuple[Tensor, Tensor, int, int]:
    """Empty clusters are filled from the largest.

    For each empty cluster, the largest one that holds two distinct points gives the point farthest from its centroid as a new
    centroid, and with it the points nearer to that than to the old one. The size kept in the books is then halved for both, so
    that several empty clusters do not share one donor.

    Args:
        points: this rank's, (n, d).
        centroids: (k, d).
        assignments: cluster of each point, (n,).
        seed: of the order in which clusters of one size give.
        spherical: points count by their directions.
    Returns:
        centroids; assignments; how many clusters were filled; how many are still empty because no cluster holds two distinct points.
    Source: DeepCluster, arXiv 1807.05520, section 3.1. Deviations: the paper moves the empty cluster's centroid next to that of a
    random other one, which fails on repeated points.
    """
    source = PointSource(points, centroids.device, spherical)
    sizes = _global_sizes(assignments, len(centroids))
    found = _Assignment(assignments.clone(), sizes, torch.empty(0, source.d, dtype=source.sums), 0.0, 0)
    centroids = centroids.detach().clone()
    n_filled = _fill(source, centroids, found, seed)
    return centroids, found.assignments, n_filled, int((found.sizes == 0).sum())


def _same_on_all_ranks(
    points: Points, k: int, iterations: int, spherical: bool, init: Any, empty: str, tolerance: float, seed: int
) -> None:
    """Ranks were called alike. Must come before anything that may raise on one rank and leave the others waiting for it.

    Raises:
        ValueError: they were not.
    """
    start = f"{tuple(init.shape)} of sum {float(init.detach().sum())}" if isinstance(init, Tensor) else init
    mine = (
        f"rows of shape {tuple(points.shape[1:])}, {dtype_of(points)}, k={k}, iterations={iterations}, spherical={spherical}, "
        f"init={start}, empty={empty}, tolerance={tolerance}, seed={seed}"
    )
    every = distributed.joined({distributed.rank(): mine})
    if len(set(every.values())) > 1:
        raise ValueError("the ranks differ; call kmeans alike on all of them. " + "; ".join(f"rank {r}: {every[r]}" for r in sorted(every)))


def _check_settings(k: int, iterations: int, empty: str, tolerance: float) -> None:
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    if empty not in ("split", "keep"):
        raise ValueError(f"empty {empty!r} must be 'split' or 'keep'")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0, got {tolerance}")


# ----------------------------------------------------------------------------------------------------------------- start


def _start(source: PointSource, k: int, init: Any, seed: int, chunk_bytes: int | None) -> Tensor:
    if isinstance(init, Tensor):
        if init.shape != (k, source.d):
            raise ValueError(f"init has shape {tuple(init.shape)}, but k and the points want ({k}, {source.d})")
        if not torch.isfinite(init).all():
            raise ValueError("init holds a value that is not finite")
        return init
    if init == "random":
        drawn = np.random.default_rng(randomness.seed_from(seed, _RANDOM)).choice(source.n_total, size=k, replace=False)
        return source.of_all_ranks(drawn)
    if init == "k-means++":
        return _plus_plus(source, k, seed, chunk_bytes)
    raise ValueError(f"init {init!r} must be 'random', 'k-means++' or a tensor of shape ({k}, {source.d})")


_RANDOM, _PLUS_PLUS, _TIES = 0x5A, 0x5B, 0x5C
"""Keep the draws of one seed apart."""


def _plus_plus(source: PointSource, k: int, seed: int, chunk_bytes: int | None) -> Tensor:
    """Rows drawn with chance in proportion to the squared distance from those drawn before, an eighth more at a time.

    Source: Arthur and Vassilvitskii, "k-means++", 2007; batches as in k-means||, Bahmani et al., 2012.
    """
    drawn = np.array([int(randomness.uniform(seed, _PLUS_PLUS, n=1)[0] * source.n_total)])
    chosen = source.of_all_ranks(drawn)
    newest, squared = chosen, torch.full((source.n,), torch.inf, dtype=source.dtype, device=source.device)
    while len(drawn) < k:
        scorer = _Scorer(source.moved(newest), source.spherical, chunk_bytes)
        for where, block in source.blocks():
            for part, scores, closest in scorer(block):
                least = scores.gather(1, closest[:, None])[:, 0]
                rows = slice(where.start + part.start, where.start + part.stop)
                distance = 1 + least if source.spherical else block[part].square().sum(dim=1) + 2 * least
                squared[rows] = torch.minimum(squared[rows], distance.clamp(min=0))
        squared[torch.from_numpy(drawn[(drawn >= source.first) & (drawn < source.first + source.n)] - source.first)] = 0
        more = min(k - len(drawn), max(1, len(drawn) // 8))
        fresh = _draw(source, squared, randomness.uniform(seed, _PLUS_PLUS, len(drawn), n=more))
        fresh = np.setdiff1d(fresh, drawn)
        if len(fresh) == 0:  # fewer distinct points than k: any others will do
            rest = np.setdiff1d(np.arange(min(source.n_total, 2 * k)), drawn)
            fresh = rest[: k - len(drawn)]
        newest = source.of_all_ranks(fresh)
        drawn, chosen = np.concatenate([drawn, fresh]), torch.cat([chosen, newest])
    return chosen


def _draw(source: PointSource, weights: Tensor, uniform: np.ndarray) -> np.ndarray:
    """Numbers of rows over all ranks, with chances in proportion to the weights; without those of weight 0."""
    running = weights.to(source.sums).cumsum(dim=0).cpu()
    mine = torch.zeros(distributed.n_ranks(), dtype=source.sums, device=source.device)
    mine[distributed.rank()] = running[-1] if len(running) else 0.0
    ends = distributed.all_reduce_sum(mine).cumsum(dim=0).cpu()
    if not ends[-1] > 0:
        return np.empty(0, dtype=np.int64)
    wanted = torch.from_numpy(uniform).to(running.dtype) * ends[-1]
    before = float(ends[distributed.rank() - 1]) if distributed.rank() else 0.0
    here = (wanted >= before) & (wanted < ends[distributed.rank()])
    found = torch.zeros(len(wanted), dtype=torch.int64)
    found[here] = source.first + torch.searchsorted(running, wanted[here] - before, right=True).clamp(max=max(0, source.n - 1))
    return np.unique(distributed.all_reduce_sum(found.to(source.device)).cpu().numpy())


# ---------------------------------------------------------------------------------------------------- assignment and update


@dataclass
class _Assignment:
    """One assignment of all points."""

    assignments: Tensor
    """Of this rank's points."""
    sizes: Tensor
    sums: Tensor
    """Of each cluster's points over all ranks, moved as `blocks` gives them; (k, d), float64."""
    inertia: float
    n_reassigned: int


def _assign(
    source: PointSource, centroids: Tensor, previous: _Assignment | None, chunk_bytes: int | None, *, with_sums: bool = True
) -> _Assignment:
    """Every point with its nearest centroid: the one pass over the points that an iteration takes.

    Sums are brought up to date by the points that have moved since the previous assignment.
    """
    scorer = _Scorer(source.moved(centroids), source.spherical, chunk_bytes)
    assignments = torch.empty(source.n, dtype=torch.int64, device=source.device)
    moved = torch.zeros(len(centroids) if with_sums else 0, source.d, dtype=source.sums, device=source.device)
    n_moved = torch.zeros(1, dtype=source.sums, device=source.device)
    for where, block in source.blocks():
        chosen = assignments[where]
        for part, _, nearest in scorer(block):
            chosen[part] = nearest
        if previous is None:
            n_moved += len(block)
            if with_sums:
                moved.index_add_(0, chosen, block.to(source.sums))
            continue
        before = previous.assignments[where]
        (changed,) = (chosen != before).nonzero(as_tuple=True)
        n_moved += len(changed)
        if with_sums:
            rows = block[changed].to(source.sums)
            moved.index_add_(0, chosen[changed], rows).index_add_(0, before[changed], rows, alpha=-1)
    sizes = torch.bincount(assignments, minlength=len(centroids))
    counts = distributed.all_reduce_sum(torch.cat([sizes, n_moved]))
    sizes, moved = counts[:-1].round().long(), distributed.all_reduce_sum(moved)
    sums = moved if previous is None or not with_sums else previous.sums + moved
    inertia = _inertia(source, source.moved(centroids), sizes, sums) if with_sums else float("nan")
    return _Assignment(assignments, sizes, sums, inertia, round(float(counts[-1])))


def _inertia(source: PointSource, centroids: Tensor, sizes: Tensor, sums: Tensor) -> float:
    """Sum over points of |x - c|^2 = |x|^2 - 2 x.c + |c|^2, from the clusters' sums; spherical: of 1 - x.c."""
    centroids = centroids.to(source.sums)
    along = float((sums * centroids).sum())
    if source.spherical:
        return max(0.0, source.n_total - along)
    return max(0.0, source.squares - 2 * along + float((sizes * centroids.square().sum(dim=1)).sum()))


class _Scorer:
    """Compares points with centroids, a chunk of rows at a time, in memory that is used again."""

    def __init__(self, centroids: Float[Tensor, "k d"], spherical: bool, chunk_bytes: int | None) -> None:
        if chunk_bytes is None:
            chunk_bytes = 1 << 24 if centroids.device.type == "cpu" else 1 << 28
        self.centroids = centroids
        self.bias = torch.zeros_like(centroids[:, 0]) if spherical else centroids.square().sum(dim=1) / 2
        self.rows = max(1, min(BLOCK_ROWS, chunk_bytes // (len(centroids) * centroids.element_size())))
        self.scores = centroids.new_empty(self.rows, len(centroids))

    def __call__(self, block: Float[Tensor, "n d"]) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """For each chunk of rows: |c|^2 / 2 - x.c of every centroid (spherical: -x.c), and which is the nearest."""
        for start in range(0, len(block), self.rows):
            part = slice(start, min(len(block), start + self.rows))
            scores = torch.addmm(self.bias, block[part], self.centroids.T, alpha=-1, out=self.scores[: part.stop - start])
            # numpy's argmin is five times as fast as torch's on the CPU.
            chosen = torch.from_numpy(scores.numpy().argmin(axis=1)) if scores.device.type == "cpu" else scores.argmin(dim=1)
            yield part, scores, chosen


def _means(found: _Assignment, centroids: Tensor, source: PointSource) -> Tensor:
    """The mean of each cluster's points; an empty cluster keeps its centroid."""
    means = found.sums / found.sizes.clamp(min=1)[:, None]
    if source.shift is not None:
        means += source.shift
    return torch.where(found.sizes[:, None] > 0, means.to(source.dtype), centroids)


def _global_sizes(assignments: Tensor, k: int) -> Tensor:
    return distributed.all_reduce_sum(torch.bincount(assignments, minlength=k))


# -------------------------------------------------------------------------------------------------------- empty clusters


def _fill(source: PointSource, centroids: Tensor, found: _Assignment, seed: int, pins: list[tuple[int, int]] | None = None) -> int:
    """Empty clusters hold points again, as far as some cluster has two distinct ones; centroids and `found` are changed in place.

    Args:
        pins: gets (row, cluster) of each new centroid that is a point of this rank.
    Returns:
        how many were filled.
    """
    empties = (found.sizes == 0).nonzero()[:, 0].tolist()
    if not empties:
        return 0
    members, sizes = _Members(found.assignments, len(centroids)), found.sizes.tolist()
    booked = np.array(sizes, dtype=np.float64)
    ties = randomness.uniform(seed, _TIES, np.arange(len(sizes)), n=1)[:, 0]
    n_filled = 0
    for new in empties:
        split = None
        while split is None and booked.max() > 0:
            donor = int(np.lexsort((ties, booked))[-1])
            if sizes[donor] > 1:
                split = _split(source, centroids[donor], members[donor])
            if split is None:
                booked[donor] = 0
        if split is None:
            break
        centroids[new] = split.point
        members[donor], members[new] = split.stays, split.goes
        found.assignments[split.goes] = new
        n_gone, sum_gone = _counted(source, split.goes)
        sizes[new], sizes[donor] = n_gone, sizes[donor] - n_gone
        if len(found.sums):
            found.sums[new], found.sums[donor] = sum_gone, found.sums[donor] - sum_gone
        booked[donor] = booked[new] = booked[donor] / 2
        n_filled += 1
        if pins is not None and split.row is not None:
            pins.append((split.row, new))
    found.sizes.copy_(torch.tensor(sizes))
    return n_filled


def _counted(source: PointSource, rows: Tensor) -> tuple[int, Tensor]:
    """How many rows, and their sum, over all ranks."""
    total = torch.zeros(source.d + 1, dtype=source.sums, device=source.device)
    for block in source.rows(rows):
        total[0] += len(block)
        total[1:] += source.moved(block).sum(dim=0, dtype=source.sums)
    total = distributed.all_reduce_sum(total)
    return int(total[0]), total[1:]


class _Members:
    """This rank's rows of each cluster, from one sort; what is set afterwards counts instead."""

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
    """A cluster in two: the point that becomes a centroid, and who stays and who goes with it."""

    point: Tensor
    row: int | None
    """The point's row, if it is this rank's."""
    stays: Tensor
    goes: Tensor


def _split(source: PointSource, centroid: Tensor, members: Tensor) -> _Split | None:
    """Splits off a cluster's farthest point and what is nearer to it than to the centroid; None where all points are equal."""
    to_centroid = _squared_distances(source, members, centroid)
    at = int(to_centroid.argmax()) if len(members) else 0
    farthest = to_centroid[at : at + 1] if len(members) else to_centroid.new_full((1,), -1.0)
    owner = int(distributed.gather_rows(farthest).argmax())
    row = int(members[at]) if owner == distributed.rank() else None
    point = source.of_rank(owner, row or 0)
    equal = _over(source, members, lambda block: (block == point).all(dim=1))
    if not distributed.any_rank(bool((~equal).any())):
        return None
    goes = equal | (_squared_distances(source, members, point) < to_centroid)
    if not distributed.any_rank(bool((~goes).any())):
        goes = equal  # the centroid was far from all of them: whoever differs stays
    return _Split(point, row, members[~goes], members[goes])


def _squared_distances(source: PointSource, rows: Tensor, point: Tensor) -> Tensor:
    """In float64, or points that differ by very little would be at distance 0."""
    return _over(source, rows, lambda block: (block.to(source.sums) - point.to(source.sums)).square().sum(dim=1))


def _over(source: PointSource, rows: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """One value for each of these rows, computed block by block."""
    nothing = torch.empty(0, source.d, dtype=source.dtype, device=source.device)
    return torch.cat([compute(nothing), *(compute(block) for block in source.rows(rows))])


def _fill_for_good(source: PointSource, centroids: Tensor, found: _Assignment, seed: int, chunk_bytes: int | None) -> None:
    """No cluster is empty after the last assignment either, while some cluster holds two distinct points.

    A new centroid may take all points of another cluster, so points are assigned and empty clusters filled again until it ends.
    It ends, since a point that has become a centroid stays with it: each round gives one more cluster a point for good.
    """
    pins: list[tuple[int, int]] = []
    for _ in range(len(centroids)):
        if not _fill(source, centroids, found, seed, pins):
            break
        found.assignments = _assign(source, centroids, None, chunk_bytes, with_sums=False).assignments
        for row, cluster in pins:
            found.assignments[row] = cluster
        found.sizes = _global_sizes(found.assignments, len(centroids))
