"""Outliers: one in a hundred of the images, and most of what is unlike them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from selfcluster.clustering.outliers import OutlierModel, fit_outlier_model


def blobs(n: int, *, seed: int = 1) -> Tensor:
    """Rows around four centers, in 12 of 40 directions, away from the origin."""
    centers = 3 * torch.randn(4, 12, generator=torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(seed)
    rows = centers[torch.arange(n) % 4] + torch.randn(n, 12, generator=draw)
    return torch.cat([rows, 0.1 * torch.randn(n, 28, generator=draw)], dim=1) + 2


def test_one_in_a_hundred_is_one() -> None:
    model, are = fit_outlier_model(blobs(1000))
    assert int(are.sum()) == 10
    assert 0.002 < float(model.are_outliers(blobs(2000, seed=2)).float().mean()) < 0.03


def test_what_lies_elsewhere_or_in_other_directions_is_one() -> None:
    model, _ = fit_outlier_model(blobs(1000))
    draw = torch.Generator().manual_seed(3)
    opposite = 4 - blobs(200, seed=4)
    other_directions = blobs(200, seed=5)
    other_directions[:, 12:] += torch.randn(200, 28, generator=draw)
    assert model.are_outliers(opposite).float().mean() > 0.9
    assert model.are_outliers(other_directions).float().mean() > 0.95


def test_with_clusters_the_distance_to_them_counts_too() -> None:
    rows = blobs(1000)
    model, are = fit_outlier_model(rows, torch.arange(1000) % 4)
    assert int(are.sum()) == 10
    longer = 2.5 * blobs(200, seed=6)  # of the same directions, so that the first cosine hardly sees it
    by_cluster = ((model._scores(longer) - model.usual) / (model.high - model.usual))[:, 2]
    assert (by_cluster > model.limit).float().mean() > 0.95


@pytest.mark.parametrize("n", [2, 3])
def test_among_very_few_there_are_none(n: int) -> None:
    model, are = fit_outlier_model(blobs(n))
    assert not are.any()
    assert not model.are_outliers(1000 * blobs(3, seed=9)).any()


@pytest.mark.parametrize("n", [4, 5, 30])
def test_few_images_and_equal_ones_have_scores(n: int) -> None:
    for rows in (blobs(n), torch.ones(n, 40)):
        model, are = fit_outlier_model(rows)
        assert are.shape == (n,)
        assert model.are_outliers(rows).shape == (n,)
    assert not fit_outlier_model(torch.ones(n, 40))[1].any()


def test_the_model_is_restored_from_its_tensors() -> None:
    model, _ = fit_outlier_model(blobs(100), torch.arange(100) % 4)
    again = OutlierModel.of(model.tensors())
    rows = blobs(50, seed=8) * 1.5
    assert torch.equal(again.are_outliers(rows), model.are_outliers(rows))
