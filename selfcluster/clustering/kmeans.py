"""K-means: Lloyd's algorithm for all clustering here, from a thousand points to more than fit in memory.

Assign each point to its nearest centroid, move each centroid to the mean of its points, repeat. Points are read in fixed blocks,
compared with the centroids in chunks, and summed in float64, so a tensor, an array and a memory map give the same result. If a process
group is initialized, each rank passes its own, disjoint rows, and the result is that of one process on the joined rows.

Empty clusters are filled from the largest (see `empty_clusters`). A cluster stays empty only if there are fewer distinct points than
clusters.

Source: DeepCluster, arXiv 1807.05520, section 3.1; Lloyd, "Least squares quantization in PCM", 1982.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from selfcluster import distributed, randomness
from selfcluster.clustering.assignment import Partition, Scorer, assign
from selfcluster.clustering.blocks import Points, PointSource, dtype_of
from selfcluster.clustering.empty_clusters import fill_empty, fill_empty_and_reassign
from selfcluster.clustering.initialization import initial_centroids


@dataclass(frozen=True)
class Clustering:
    """Result of `kmeans`."""

    centroids: Float[Tensor, "k d"]
    assignments: Int64[Tensor, " n"]
    """Nearest of these centroids, for each point of this rank."""
    sizes: Int64[Tensor, " k"]
    """Points of each cluster, over all ranks."""
    inertia: tuple[float, ...]
    """Sum of squared distances (spherical: of 1 - cosine) over all ranks after the assignment of each iteration."""
    n_reassigned: tuple[int, ...]
    """Points that changed their cluster in each iteration; all of them in the first."""
    n_empty: int
    """Clusters without a point."""


def kmeans(
    points: Points,
    k: int,
    *,
    iterations: int = 20,
    spherical: bool = False,
    init: Literal["random", "k-means++"] | Tensor | np.ndarray = "random",
    n_init: int = 1,
    empty: Literal["split", "keep"] = "split",
    tolerance: float = 0.0,
    chunk_bytes: int | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Clustering:
    """Find k centroids, each the mean of the points nearest to it.

    Args:
        points: this rank's rows, (n, d), a tensor or array of any numeric type; float64 is computed in float64, all else in
            float32. A memory map is read in blocks.
        k: clusters, at most as many as there are points over all ranks.
        iterations: assignments, each followed by an update, at least 1. DeepCluster: 20; DeepCluster-v2: 10. Once an iteration moves no
            point, the remaining ones are filled in without being computed.
        spherical: cluster by direction: points and centroids are normalized and compared by cosine.
        init: "random" (k different rows), "k-means++" (rows far from each other), or initial centroids, (k, d).
        n_init: starts, at least 1; the one with the lowest inertia is returned. Given centroids are one start.
        empty: "split" fills an empty cluster from the largest, "keep" leaves its centroid where it is, as DeepCluster-v2's code does.
        tolerance: stop when an iteration lowers the inertia by less than this share of it; 0 runs all iterations.
        chunk_bytes: memory for the scores of points against centroids; None for a value that suits the device.
        seed: random seed of initial rows and ties. If `n_init` is above 1, start i uses `seed_from(seed, i)`.
        device: where to compute; None for the points' device.
    Returns:
        the last centroids, with assignments and sizes from a final assignment to them, after empty clusters are filled once more.
    Raises:
        ValueError: points that are not (n, d) or not finite; k below 1 or above the number of points; iterations or n_init below 1, a
            negative tolerance, another `empty`; an init of another name or shape, or not finite; different arguments on different ranks.
    Deviations: k-means++ draws in batches of an eighth of the rows drawn so far, which takes somewhat more than log k passes instead of k.
    Distances are computed in float32, accurate to about 1e-6 of the squared extent of all points; if clusters are a thousand times farther
    apart than they are wide, pass float64.
    """
    init = torch.from_numpy(init.astype(np.float64)) if isinstance(init, np.ndarray) else init
    _check_same_on_all_ranks(points, k, iterations, spherical, init, n_init, empty, tolerance, seed)
    _check_settings(k, iterations, n_init, empty, tolerance)
    source = PointSource(points, device, spherical)
    source.survey()
    if source.n_total < k:
        raise ValueError(f"{source.n_total} points are fewer than k = {k} clusters; lower k")
    seeds = [seed] if n_init == 1 or isinstance(init, Tensor) else [randomness.seed_from(seed, start) for start in range(n_init)]
    starts = (
        _lloyd(
            source,
            initial_centroids(source, k, init, seed, chunk_bytes),
            iterations=iterations,
            empty=empty,
            tolerance=tolerance,
            chunk_bytes=chunk_bytes,
            seed=seed,
        )
        for seed in seeds
    )
    return min(starts, key=lambda found: found.inertia[-1])


def nearest(points: Points, centroids: Tensor, *, spherical: bool = False, chunk_bytes: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the nearest centroid of each point, (n,) int64, and the squared distance to it (spherical: 1 - cosine), (n,).

    Args:
        points: (n, d), this rank's.
        centroids: (k, d).
        spherical, chunk_bytes: as in `kmeans`.
    """
    source = PointSource(points, centroids.device, spherical)
    assignments = torch.empty(source.n, dtype=torch.int64, device=source.device)
    distances = torch.empty(source.n, dtype=source.dtype, device=source.device)
    targets = source.as_centroids(centroids)
    wide = targets.to(source.sum_dtype)
    source.shift_by_mean(wide.sum(dim=0), float(wide.square().sum()), len(wide))
    targets = source.shifted(targets)
    scorer = Scorer(targets, spherical, chunk_bytes)
    for where, block in source.blocks():
        for part, chosen, scores in scorer(block):
            least = scores.gather(1, chosen[:, None])[:, 0]
            assignments[where][part] = chosen
            distances[where][part] = (1 + least).clamp(min=0) if spherical else (block[part] - targets[chosen]).square().sum(dim=1)
    return assignments, distances


def _check_same_on_all_ranks(
    points: Points, k: int, iterations: int, spherical: bool, init: Tensor | str, n_init: int, empty: str, tolerance: float, seed: int
) -> None:
    """Raise ValueError if the ranks were called differently; before any check that one rank alone could fail, leaving the others waiting."""
    start = f"{tuple(init.shape)} of sum {float(init.detach().sum())}" if isinstance(init, Tensor) else init
    mine = (
        f"rows of shape {tuple(points.shape[1:])}, {dtype_of(points)}, k={k}, iterations={iterations}, spherical={spherical}, "
        f"init={start}, n_init={n_init}, empty={empty}, tolerance={tolerance}, seed={seed}"
    )
    every = distributed.joined({distributed.rank(): mine})
    if len(set(every.values())) > 1:
        calls = "; ".join(f"rank {rank}: {every[rank]}" for rank in sorted(every))
        raise ValueError(f"the ranks call kmeans with different arguments; call it alike on all of them. {calls}")


def _check_settings(k: int, iterations: int, n_init: int, empty: str, tolerance: float) -> None:
    for name, value in {"k": k, "iterations": iterations, "n_init": n_init}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if empty not in ("split", "keep"):
        raise ValueError(f"empty {empty!r} must be 'split' or 'keep'")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0, got {tolerance}")


def _lloyd(
    source: PointSource, centroids: Tensor, *, iterations: int, empty: str, tolerance: float, chunk_bytes: int | None, seed: int
) -> Clustering:
    """Run Lloyd's algorithm once from these centroids."""
    centroids = source.as_centroids(centroids)
    current: Partition | None = None
    inertia: list[float] = []
    n_reassigned: list[int] = []
    for iteration in range(iterations):
        current = assign(source, centroids, current, chunk_bytes)
        inertia.append(current.inertia)
        n_reassigned.append(current.n_reassigned)
        # Rounding may raise the inertia slightly, which must not stop a run without a tolerance.
        if tolerance > 0 and iteration > 0 and inertia[-2] - inertia[-1] < tolerance * inertia[-2]:
            break
        n_filled = fill_empty(source, centroids, current, seed) if empty == "split" else 0
        if current.n_reassigned == 0 and n_filled == 0:
            if tolerance == 0:
                inertia += [inertia[-1]] * (iterations - len(inertia))
                n_reassigned += [0] * (iterations - len(n_reassigned))
            break
        means = current.sums / current.sizes.clamp(min=1)[:, None]
        if source.shift is not None:
            means += source.shift
        # An empty cluster keeps its centroid.
        centroids = source.as_centroids(torch.where(current.sizes[:, None] > 0, means.to(source.dtype), centroids))
    current = assign(source, centroids, None, chunk_bytes, with_sums=False)
    if empty == "split":
        fill_empty_and_reassign(source, centroids, current, seed, chunk_bytes)
    n_empty = int((current.sizes == 0).sum())
    return Clustering(centroids, current.assignments, current.sizes, tuple(inertia), tuple(n_reassigned), n_empty)
