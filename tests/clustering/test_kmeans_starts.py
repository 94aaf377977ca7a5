"""k-means++, and the best of several starts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from selfcluster import randomness
from selfcluster.clustering import blocks, initialization
from selfcluster.clustering.kmeans import kmeans
from tests.clustering.found import check_same, clumps, random_points


def test_plus_plus_starts_better_than_random_on_clumps() -> None:
    points = clumps(1000, 4, 25)
    first = [[kmeans(points, 25, iterations=1, init=init, seed=seed).inertia[0] for seed in range(5)] for init in ("random", "k-means++")]
    assert max(first[1]) < 0.6 * min(first[0])


def test_plus_plus_draws_by_the_squared_distance() -> None:
    """From 0 the chances of 1 and 3 are 1 : 9, from 1 those of 0 and 3 are 1 : 4, from 3 those of 0 and 1 are 9 : 4."""
    pairs = {(0, 1): 0, (0, 3): 0, (1, 3): 0}
    source = blocks.PointSource(torch.tensor([[0.0], [1.0], [3.0]]), None, False)
    source.survey()
    for seed in range(600):
        drawn = initialization._plus_plus(source, 2, seed, None)[:, 0].tolist()
        pairs[tuple(sorted(map(int, drawn)))] += 1
    expected = [(1 / 10 + 1 / 5) / 3, (9 / 10 + 9 / 13) / 3, (4 / 5 + 4 / 13) / 3]
    for share, chance in zip(pairs.values(), expected, strict=True):
        assert share / 600 == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / 600))


def test_plus_plus_takes_few_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = 0
    original = blocks.PointSource.blocks

    def counted(self: Any) -> Iterator[Any]:
        nonlocal passes
        passes += 1
        return original(self)

    monkeypatch.setattr(blocks.PointSource, "blocks", counted)
    points, counts = random_points(3000, 4), []
    for init in ("random", "k-means++"):
        passes = 0
        kmeans(points, 1000, iterations=1, init=init)
        counts.append(passes)
    assert counts[0] <= 4
    assert counts[1] - counts[0] <= 70, "about 8 + log(1000 / 8) / log(9 / 8)"


def test_plus_plus_with_fewer_places_than_clusters() -> None:
    places = random_points(5, 3)
    points = places[torch.arange(40) % 5]
    for k in (5, 12, 40):
        found = kmeans(points, k, init="k-means++")
        assert found.n_empty == k - 5
        assert found.inertia[-1] == pytest.approx(0, abs=1e-4)
    for seed in range(10):
        # Each draw comes from a place of its own, so nothing is left to improve.
        assert kmeans(points, 5, init="k-means++", iterations=1, seed=seed).inertia[0] == pytest.approx(0, abs=1e-4)
    assert kmeans(torch.zeros(12, 2), 12, init="k-means++").n_empty == 11


@pytest.mark.parametrize("init", ["random", "k-means++"])
def test_the_best_of_several_starts(init: str) -> None:
    points = random_points(300, 3)
    each = [kmeans(points, 12, init=init, iterations=5, seed=randomness.seed_from(7, start)) for start in range(4)]
    best = min(each, key=lambda found: found.inertia[-1])
    assert len({found.inertia[-1] for found in each}) == 4
    check_same(kmeans(points, 12, init=init, iterations=5, n_init=4, seed=7), best, rtol=0, atol=0)


def test_given_centroids_are_one_start() -> None:
    points = random_points(100, 3)
    check_same(kmeans(points, 4, init=points[:4], n_init=3), kmeans(points, 4, init=points[:4]))
