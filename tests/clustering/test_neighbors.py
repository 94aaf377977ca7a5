"""Nearest neighbors compared with a plain search."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from selfcluster.clustering import neighbors
from selfcluster.clustering.neighbors import nearest_centroids, nearest_neighbors


def _plainly(features: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    unit = features.double() / features.double().norm(dim=1, keepdim=True).clamp(min=1e-12)
    scores = unit @ unit.T
    scores.fill_diagonal_(-torch.inf)
    found = scores.topk(k)
    return found.indices, found.values


@pytest.mark.parametrize(("n", "k"), [(10, 3), (64, 8), (65, 8), (200, 8), (1000, 8), (3000, 8), (3000, 1)])
def test_equals_a_plain_search(n: int, k: int) -> None:
    features = torch.randn(n, 16, generator=torch.Generator().manual_seed(n))
    index, cosine = nearest_neighbors(features, k)
    expected, values = _plainly(features, k)
    torch.testing.assert_close(cosine.double(), values, rtol=0, atol=1e-5)
    assert (index == expected).float().mean() > 0.99


@pytest.mark.parametrize(("n", "b", "k"), [(7, 5, 9), (7, 3000, 3), (300, 70, 2)])
def test_another_bank_is_searched_whole(n: int, b: int, k: int) -> None:
    draw = torch.Generator().manual_seed(n)
    queries, bank = torch.randn(n, 16, generator=draw), normalize(torch.randn(b, 16, generator=draw))
    index, cosine = nearest_neighbors(queries, k, bank)
    expected = (normalize(queries) @ bank.T).topk(min(k, b))
    torch.testing.assert_close(cosine, expected.values, rtol=0, atol=1e-6)
    assert torch.equal(index, expected.indices)


def test_the_nearest_centroid_and_how_much_farther_the_next_cluster_is() -> None:
    points = torch.tensor([[2.0, 0, 0], [0, 3, 4]])
    centroid, margin = nearest_centroids(points, torch.eye(3), torch.arange(3))
    assert centroid.tolist() == [0, 2]
    torch.testing.assert_close(margin, torch.tensor([1, 0.2]))
    centroid, margin = nearest_centroids(points, torch.eye(3), torch.tensor([0, 1, 1]))
    assert centroid.tolist() == [0, 2]
    torch.testing.assert_close(margin, torch.tensor([1, 0.8]))
    assert nearest_centroids(points, torch.eye(3)[:1], torch.tensor([0]))[1].tolist() == [torch.inf] * 2


@pytest.mark.parametrize("n", [500, 2500])
def test_chunks_change_nothing(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.randn(n, 16, generator=torch.Generator().manual_seed(0))
    whole = nearest_neighbors(features, 8)[0]
    monkeypatch.setattr(neighbors, "_FEWEST_ROWS", 1)
    for limit, value in {"_CHUNK_BYTES": 4 * n * 7, "_CHUNK_ROWS": 3}.items():
        monkeypatch.setattr(neighbors, limit, value)
        assert torch.equal(nearest_neighbors(features, 8)[0], whole)


def test_no_image_is_its_own_neighbor_even_among_copies() -> None:
    features = torch.randn(100, 8, generator=torch.Generator().manual_seed(0)).repeat(3, 1)
    index, cosine = nearest_neighbors(features, 2)
    assert (index != torch.arange(300)[:, None]).all()
    assert (index % 100 == torch.arange(300)[:, None] % 100).all()
    np.testing.assert_allclose(cosine, 1, atol=1e-5)


def test_few_images_have_fewer_neighbors() -> None:
    features = torch.randn(3, 4)
    assert nearest_neighbors(features, 8)[0].shape == (3, 2)
    assert nearest_neighbors(features[:1], 8)[0].shape == (1, 0)


def test_a_row_of_zeros_has_cosine_zero() -> None:
    features = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)).abs()
    features[3] = 0
    index, cosine = nearest_neighbors(features, 5)
    assert (cosine[3] == 0).all()
    assert torch.isfinite(cosine).all()
    assert (index < 20).all()
