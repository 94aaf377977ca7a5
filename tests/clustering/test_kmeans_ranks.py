"""Ranks find together what one process finds on all rows."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from selfcluster.clustering.kmeans import Clustering, kmeans
from tests.clustering.found import check_same, random_points
from tests.ranks import on_ranks


def _of_parts(points: Tensor, ends: list[int], calls: list[dict[str, Any]]) -> list[Clustering]:
    from selfcluster import distributed

    rank = distributed.rank()
    part = points[ends[rank] : ends[rank + 1]]
    return [kmeans(part, **call) for call in calls]


def _check_ranks(points: Tensor, ends: list[int], calls: list[dict[str, Any]], **close: float) -> None:
    """Check that the ranks together find what one process finds on the joined rows."""
    results = on_ranks(_of_parts, points, ends, calls, n=len(ends) - 1)
    for i, call in enumerate(calls):
        found = [result[i] for result in results]
        for other in found[1:]:
            assert torch.equal(other.centroids, found[0].centroids)
            assert torch.equal(other.sizes, found[0].sizes)
            assert (other.inertia, other.n_reassigned, other.n_empty) == (found[0].inertia, found[0].n_reassigned, found[0].n_empty)
        joined = Clustering(
            found[0].centroids,
            torch.cat([f.assignments for f in found]),
            found[0].sizes,
            found[0].inertia,
            found[0].n_reassigned,
            found[0].n_empty,
        )
        check_same(joined, kmeans(points, **call), **close)


@pytest.mark.parametrize("ends", [[0, 100, 200], [0, 199, 200], [0, 0, 200], [0, 60, 61, 200], [0, 0, 90, 200]])
def test_ranks_equal_one_on_the_joined_rows(ends: list[int]) -> None:
    points = random_points(200, 3, offset=30.0 if ends[1] == 60 else 0.0)
    calls: list[dict[str, Any]] = [
        {"k": 7, "iterations": 8},
        {"k": 7, "iterations": 8, "spherical": True},
        {"k": 40, "iterations": 5, "init": "k-means++", "seed": 3},
        {"k": 12, "iterations": 5, "init": points[:12], "tolerance": 0.01},
        {"k": 12, "iterations": 5, "n_init": 3},
        {"k": 1},
        {"k": 200, "iterations": 1},
    ]
    _check_ranks(points, ends, calls, rtol=1e-5, atol=1e-5)
    _check_ranks(points.double(), ends, calls[:3])


@pytest.mark.parametrize("ends", [[0, 100, 200], [0, 200, 200], [0, 40, 90, 200]])
def test_ranks_fill_empty_clusters_alike(ends: list[int]) -> None:
    """Points are sorted, so that some ranks have no point of the donor cluster."""
    points = random_points(200, 2, dtype=torch.float64)
    points = points[points[:, 0].argsort()]
    outside = torch.cat([points[:5], 50 + random_points(15, 2, seed=1, dtype=torch.float64)])
    calls: list[dict[str, Any]] = [
        {"k": 20, "iterations": 4, "init": outside},
        {"k": 20, "iterations": 1, "init": outside},
        {"k": 20, "iterations": 3, "init": outside, "spherical": True},
        {"k": 20, "iterations": 4, "init": outside, "empty": "keep"},
    ]
    _check_ranks(points, ends, calls)


def test_ranks_leave_none_empty() -> None:
    places = random_points(5, 3)
    repeated, half_equal = places[torch.arange(100) % 5], torch.cat([torch.full((60, 3), 0.5), random_points(40, 3)])
    for points, k, n_empty in ((repeated, 10, 5), (half_equal, 10, 0), (half_equal, 41, 0)):
        found = [result for (result,) in on_ranks(_of_parts, points, [0, 55, 100], [{"k": k}])]
        assert [f.n_empty for f in found] == [n_empty] * 2
        assert torch.equal(torch.bincount(torch.cat([f.assignments for f in found]), minlength=k), found[0].sizes)


def _messages(calls: list[list[tuple[Any, int, dict[str, Any]]]]) -> list[str]:
    from selfcluster import distributed

    messages = []
    for call in calls:
        points, k, settings = call[distributed.rank()]
        try:
            kmeans(points, k, **settings)
            messages.append("none")
        except ValueError as error:
            messages.append(str(error))
    return messages


def test_ranks_raise_together() -> None:
    points, start = random_points(20, 3), random_points(4, 3)
    bad = points.clone()
    bad[3, 1] = math.nan
    alike = (points, 4, {})
    cases: list[tuple[tuple[Any, int, dict[str, Any]], tuple[Any, int, dict[str, Any]], str]] = [
        (alike, (points, 5, {}), "k=5"),
        (alike, (points, 0, {}), "k=0"),
        (alike, (points[:, :2], 4, {}), "rows of shape (2,)"),
        (alike, (points[0], 4, {}), "rows of shape ()"),
        (alike, (points.double(), 4, {}), "torch.float64"),
        (alike, (points, 4, {"seed": 1}), "seed=1"),
        (alike, (points, 4, {"iterations": 3}), "iterations=3"),
        (alike, (points, 4, {"tolerance": 0.5}), "tolerance=0.5"),
        (alike, (points, 4, {"spherical": True}), "spherical=True"),
        (alike, (points, 4, {"empty": "keep"}), "empty=keep"),
        (alike, (points, 4, {"init": "k-means++"}), "init=k-means++"),
        (alike, (points, 4, {"init": start}), "init=(4, 3)"),
        (alike, (points, 4, {"n_init": 2}), "n_init=2"),
        ((points, 4, {"init": start}), (points, 4, {"init": points[:4]}), "init=(4, 3)"),
        (alike, (bad, 4, {}), "points contain a value that is not finite"),
        ((points, 41, {}), (points, 41, {}), "40 points are fewer than k = 41 clusters"),
        ((points[:0], 1, {}), (points[:0], 1, {}), "0 points are fewer than k = 1"),
        ((points, 0, {}), (points, 0, {}), "k must be at least 1, got 0"),
        ((points, 40, {}), (points, 40, {}), "none"),
    ]
    first, second = on_ranks(_messages, [[a, b] for a, b, _ in cases])
    for (_, _, message), here, there in zip(cases, first, second, strict=True):
        assert message in here
        assert here == there


def _alone(points: Tensor) -> Clustering:
    from selfcluster import distributed

    with distributed.alone():
        return kmeans(points + distributed.n_ranks(), 3)


def test_alone_each_rank_clusters_its_own_points() -> None:
    points = random_points(50, 2)
    for found in on_ranks(_alone, points):
        check_same(found, kmeans(points + 1, 3))
