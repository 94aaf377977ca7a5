"""The nearest centroid of each point."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from selfcluster.clustering.kmeans import kmeans, nearest
from tests import reference
from tests.clustering.found import clumps, random_points


@pytest.mark.parametrize("spherical", [False, True])
def test_nearest_equals_the_naive_loop(spherical: bool) -> None:
    points, centroids = random_points(60, 3), random_points(7, 3, seed=1)
    assignments, distances = nearest(points, centroids, spherical=spherical)
    expected, far = reference.nearest(points.numpy(), centroids.numpy(), spherical)
    assert assignments.tolist() == expected.tolist()
    np.testing.assert_allclose(distances.numpy(), far, rtol=1e-4, atol=1e-6)
    for chunk_bytes in (1, 100):
        assert torch.equal(nearest(points, centroids, spherical=spherical, chunk_bytes=chunk_bytes)[0], assignments)
    assert torch.equal(nearest(points.numpy(), centroids, spherical=spherical)[0], assignments)


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_nearest_agrees_with_kmeans(spherical: bool, offset: float) -> None:
    points = clumps(500, 3, 9) + offset
    found = kmeans(points, 9, spherical=spherical, init="k-means++")
    assignments, distances = nearest(points, found.centroids, spherical=spherical)
    if not (spherical and offset):  # seen from there all directions are the same to 1e-7
        assert torch.equal(assignments, found.assignments)
    assert (distances >= 0).all()
    if offset == 0:
        assert float(distances.sum()) == pytest.approx(found.inertia[-1], rel=1e-3)


def test_nearest_is_accurate_with_one_far_centroid() -> None:
    points, centroids = random_points(200, 2), torch.cat([random_points(10, 2, seed=1), torch.full((1, 2), 1e7)])
    assert nearest(points, centroids)[0].tolist() == reference.nearest(points.numpy(), centroids.numpy())[0].tolist()


def test_nearest_has_no_gradient_and_changes_nothing() -> None:
    points, centroids = random_points(20, 2), random_points(3, 2, seed=1).requires_grad_()
    before = centroids.detach().clone()
    assert not nearest(points, centroids)[1].requires_grad
    assert torch.equal(centroids, before)
    assert nearest(points[:0], centroids)[0].shape == (0,)
