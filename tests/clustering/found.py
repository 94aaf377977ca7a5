"""Points to cluster, and what every clustering of them must fulfil."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from selfcluster.clustering.kmeans import Clustering


def random_points(n: int, d: int, seed: int = 0, offset: float = 0.0, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + offset).to(dtype)


def clumps(n: int, d: int, n_clumps: int, seed: int = 0) -> Tensor:
    """Points of spread 0.1 around places of spread 3."""
    places = 3 * random_points(n_clumps, d, seed)
    return places[torch.arange(n) % n_clumps] + 0.1 * random_points(n, d, seed + 1)


def unit_rows(points: Tensor) -> Tensor:
    return torch.nn.functional.normalize(points.double())


def check_same(a: Clustering, b: Clustering, *, rtol: float = 1e-6, atol: float = 1e-6) -> None:
    assert torch.equal(a.assignments, b.assignments)
    assert torch.equal(a.sizes, b.sizes)
    assert a.n_reassigned == b.n_reassigned
    assert a.n_empty == b.n_empty
    torch.testing.assert_close(a.centroids, b.centroids, rtol=rtol, atol=atol)
    assert a.inertia == pytest.approx(b.inertia, rel=1e-5, abs=1e-4)


def check_found(found: Clustering, points: Tensor, k: int, *, spherical: bool = False) -> None:
    """Check the properties of every result of one process."""
    assert found.centroids.shape == (k, points.shape[1])
    assert torch.isfinite(found.centroids).all()
    assert torch.equal(torch.bincount(found.assignments, minlength=k), found.sizes)
    assert int((found.sizes == 0).sum()) == found.n_empty
    rows, centroids = unit_rows(points) if spherical else points.double(), found.centroids.double()
    distances = 1 - rows @ centroids.T if spherical else torch.cdist(rows, centroids, compute_mode="donot_use_mm_for_euclid_dist").square()
    scale = 1.0 if spherical else float((rows - rows.mean(dim=0)).square().sum(dim=1).max()) + 1e-30
    chosen = distances.gather(1, found.assignments[:, None])[:, 0]
    assert float((chosen - distances.min(dim=1).values).max()) <= 1e-5 * scale
    if found.n_empty:
        rows = rows.to(points.dtype)
        for members in (rows[found.assignments == cluster] for cluster in range(k)):
            assert len(torch.unique(members, dim=0)) <= 1, "a cluster stays empty while another holds two distinct points"
