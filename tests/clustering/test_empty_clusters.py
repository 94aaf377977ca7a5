"""No cluster stays empty while another holds two distinct points; the largest give."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from selfcluster.clustering.kmeans import kmeans
from tests.clustering.found import check_found, clumps, random_points


@pytest.mark.parametrize("init", ["random", "k-means++"])
def test_five_places_fill_five_clusters(init: str) -> None:
    places = random_points(5, 3)
    for seed in range(5):
        found = kmeans(places[torch.arange(100) % 5], 10, init=init, seed=seed)
        assert found.n_empty == 5
        assert sorted(found.sizes.tolist()) == [0] * 5 + [20] * 5
        assert found.inertia[-1] == pytest.approx(0, abs=1e-4)


def test_five_directions_fill_five_clusters() -> None:
    """Rows of one direction and other lengths are equal points, also where float32 would round them apart."""
    generator = torch.Generator().manual_seed(0)
    for d in (2, 3, 16):
        directions = torch.randint(-9, 10, (5, d), generator=generator).float()
        points = directions[torch.arange(100) % 5] * torch.randint(1, 50, (100, 1), generator=generator)
        assert kmeans(points, 10, spherical=True).n_empty == 5


@pytest.mark.parametrize("k", [10, 41])
@pytest.mark.parametrize("init", ["random", "k-means++", "bad"])
def test_repeated_points_do_not_keep_clusters_empty(k: int, init: str) -> None:
    points = torch.cat([torch.full((60, 2), 0.5), random_points(40, 2)])
    for seed in range(5):
        found = kmeans(points, k, init=torch.zeros(k, 2) if init == "bad" else init, seed=seed)
        assert found.n_empty == 0
        assert found.sizes.min() > 0
        check_found(found, points, k)


@pytest.mark.parametrize("spherical", [False, True])
def test_none_stays_empty_in_hard_cases(spherical: bool) -> None:
    draw = np.random.default_rng(0)
    pools = {
        "grid": np.arange(4.0),
        "tiny beside large": np.array([0, 1e-30, 1, 1 + 1e-7, 1e-10, 1e-25, -1]),
        "a rounding apart": np.array([1, 1 + 1.2e-7, 1 + 2.4e-7, 1 - 6e-8]),
        "a rounding apart, far off": 1e4 + np.array([0, 1e-3, 2e-3, 3e-3, -1e-3]),
        "lost beside the mean": np.array([0, 1e-10, 2e-10, 1, 1, 1, 1]),
        "lost beside the largest": np.array([0, 1, 2, 1e8, 1e8 + 8]),
    }
    for case in range(90):
        pool = list(pools.values())[case % len(pools)]
        n, d = int(draw.integers(1, 30)), int(draw.integers(1, 4))
        k = int(draw.integers(1, n + 1))
        points = torch.from_numpy(draw.choice(pool, size=(n, d)).astype(np.float64 if case % 5 == 0 else np.float32))
        starts = [
            "random",
            "k-means++",
            points[torch.from_numpy(draw.integers(0, n, size=k))],
            torch.full((k, d), 7.0),
            9 * random_points(k, d, case),
        ]
        iterations = int(draw.integers(1, 6))
        found = kmeans(points, k, iterations=iterations, spherical=spherical, init=starts[case % 7 % 5], seed=case)
        assert len(found.inertia) == iterations
        check_found(found, points, k, spherical=spherical)


def test_empty_clusters_may_be_kept() -> None:
    points = clumps(100, 2, 2)
    start = torch.cat([points[:2], torch.tensor([[90.0, 90.0], [-80.0, 70.0]])])
    kept = kmeans(points, 4, init=start, empty="keep")
    assert kept.n_empty == 2
    assert kept.sizes[2:].tolist() == [0, 0]
    assert torch.equal(kept.centroids[2:], start[2:])
    assert kmeans(points, 4, init=start).n_empty == 0


def test_the_farthest_point_becomes_the_centroid_and_takes_what_is_nearer() -> None:
    points = torch.tensor([[0.0], [1.0], [2.0], [7.0], [9.0], [100.0]])
    found = kmeans(points, 3, init=torch.tensor([[3.8], [50.0], [100.0]]), iterations=1)
    assert found.centroids.tolist() == [[1.0], [8.0], [100.0]]
    assert found.assignments.tolist() == [0, 0, 0, 1, 1, 2]


def test_several_empty_clusters_take_from_different_donors() -> None:
    # Three clusters of 12, 10 and 8 points, and three empty ones: each of the three gives once.
    rows = [torch.arange(n, dtype=torch.float32)[:, None] + 1000 * i for i, n in enumerate((12, 10, 8))]
    points, means = torch.cat(rows), torch.stack([r.mean(dim=0) for r in rows])

    def donors(n_empty: int) -> list[int]:
        found = kmeans(points, 3 + n_empty, init=torch.cat([means, torch.full((n_empty, 1), -1e5)]), iterations=1)
        assert found.n_empty == 0
        return [int(x // 1000) for x in found.centroids[3:, 0]]

    assert donors(3) == [0, 1, 2], "the largest gives first"
    assert donors(4) == [0, 1, 2, 0], "the first now counts as 6, the others as 5 and 4"


def test_a_cluster_of_equal_points_never_gives() -> None:
    points = torch.cat([torch.full((50, 2), 3.0), torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0]])])
    start = torch.tensor([[3.0, 3.0], [0.0, 1.0], [9.0, 9.0], [9.0, 9.0], [9.0, 9.0]])
    found = kmeans(points, 5, init=start, iterations=1)
    assert found.n_empty == 1
    assert found.assignments[:50].tolist() == [0] * 50
    assert sorted(found.assignments[50:].tolist()) == [1, 2, 3]
    assert found.centroids[4].tolist() == [9, 9], "what stays empty keeps its centroid"
    # A centroid that is not their mean makes them no better a donor.
    assert kmeans(points[:50], 2, init=torch.tensor([[1.0, 2.0], [0.0, 0.0]]), iterations=1).n_empty == 1


def test_a_donor_keeps_a_point_wherever_its_centroid_is() -> None:
    points, start = torch.tensor([[0.0], [1.0], [1.0]]), torch.tensor([[-10.0], [200.0], [200.0]])
    found = kmeans(points, 3, init=start, iterations=1)
    assert found.centroids.tolist() == [[0], [1], [200]]
    assert (found.assignments.tolist(), found.n_empty) == ([0, 1, 1], 1)


def test_equal_sizes_give_in_an_order_of_the_seed() -> None:
    points = torch.cat([torch.arange(4.0)[:, None] + 100 * i for i in range(6)])
    start = torch.cat([torch.stack([part.mean(dim=0) for part in points.split(4)]), torch.tensor([[-1e4]])])
    donors, again = ([int(kmeans(points, 7, init=start, iterations=1, seed=s).centroids[6, 0]) // 100 for s in range(12)] for _ in range(2))
    assert donors == again
    assert len(set(donors)) > 1


def test_directions_and_arrays_are_filled_too() -> None:
    points = torch.tensor([[1.0, 0.0], [5.0, 0.1], [0.0, 3.0], [0.1, 4.0]])
    for given in (points, points.numpy()):
        found = kmeans(given, 2, init=torch.tensor([[1.0, 0.0], [0.0, -1.0]]), spherical=True, iterations=1)
        assert (found.assignments.tolist(), found.n_empty) == ([0, 0, 1, 1], 0)
