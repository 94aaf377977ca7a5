"""Dense groups are found with their number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from selfcluster.clustering import density
from selfcluster.clustering.density import density_centroids
from selfcluster.clustering.metrics import matched_accuracy


def _blobs(sizes: list[int], width: int = 32, spread: float = 0.08, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    generator = torch.Generator().manual_seed(seed)
    centers = normalize(torch.randn(len(sizes), width, generator=generator))
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return centers[labels] + spread * torch.randn(len(labels), width, generator=generator), labels


@pytest.mark.parametrize("sizes", [[60] * 5, [40] * 20, [200, 100, 50, 25, 25]], ids=str)
def test_the_number_of_groups_is_found_and_their_means_tell_them_apart(sizes: list[int]) -> None:
    features, labels = _blobs(sizes)
    centroids = density_centroids(features)
    assert len(centroids) == len(sizes)
    torch.testing.assert_close(centroids.norm(dim=1), torch.ones(len(sizes)))
    assert matched_accuracy(labels, (normalize(features) @ centroids.T).argmax(dim=1).numpy()) > 0.99


def test_the_same_rows_give_the_same_groups() -> None:
    features, _ = _blobs([50] * 6)
    assert torch.equal(density_centroids(features), density_centroids(features))


def test_of_many_rows_a_sample_is_clustered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(density, "_MAX_ROWS", 200)
    features, _ = _blobs([200] * 4)
    assert len(density_centroids(features, seed=3)) == 4


@pytest.mark.parametrize("n", [0, 1, 2, 9])
def test_few_rows_have_no_groups(n: int) -> None:
    assert len(density_centroids(torch.randn(n, 8, generator=torch.Generator().manual_seed(0)))) == 0


def test_equal_rows_are_at_most_one_group() -> None:
    assert len(density_centroids(torch.ones(60, 4))) < 60
