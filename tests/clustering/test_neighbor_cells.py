"""Neighbors by cells are nearly those of all pairs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from selfcluster.clustering.neighbor_cells import near_neighbors
from selfcluster.clustering.neighbors import nearest_neighbors


def rows(n: int) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return normalize(torch.randn(40, 16, generator=draw)[torch.arange(n) % 40] + 0.7 * torch.randn(n, 16, generator=draw))


def test_few_rows_are_compared_exactly() -> None:
    for given, wanted in zip(near_neighbors(rows(300), 5), nearest_neighbors(rows(300), 5), strict=True):
        assert torch.equal(given, wanted)


def test_most_neighbors_among_many_rows_are_found() -> None:
    points = rows(2000)
    index, cosine = near_neighbors(points, 8, exact=100)
    wanted, nearest = nearest_neighbors(points, 8)
    found = (index[:, :, None] == wanted[:, None]).any(dim=2).float().mean()
    assert found > 0.8
    assert not (index == torch.arange(2000)[:, None]).any()
    assert (cosine[:, :-1] >= cosine[:, 1:]).all()
    assert float((nearest - cosine).mean()) < 0.02
    torch.testing.assert_close(cosine, (points[:, None] * points[index]).sum(dim=2))


def test_copies_are_found() -> None:
    points = rows(2000)
    points[1000:] = normalize(points[:1000] + 0.01 * torch.randn(1000, 16, generator=torch.Generator().manual_seed(1)))
    index, _ = near_neighbors(points, 1, exact=100)
    assert (index[:1000, 0] == torch.arange(1000, 2000)).float().mean() > 0.98


@pytest.mark.parametrize("n", [12, 30])
def test_tiny_cells_are_searched_until_there_are_enough(n: int) -> None:
    index, cosine = near_neighbors(rows(n), 10, exact=0)
    assert index.shape == (n, 10)
    assert all(len(set(row)) == 10 for row in index.tolist())
    assert cosine.isfinite().all()


def test_equal_rows() -> None:
    index, cosine = near_neighbors(torch.full((200, 4), 0.5), 3, exact=10)
    assert not (index == torch.arange(200)[:, None]).any()
    torch.testing.assert_close(cosine, torch.ones(200, 3))
