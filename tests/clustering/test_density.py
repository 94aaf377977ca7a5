"""Dense groups are found with their number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from selfcluster.clustering.density import SHARED_NEIGHBORS, dense_groups
from selfcluster.clustering.metrics import matched_accuracy
from selfcluster.clustering.neighbor_graph import neighbor_graph, shared_neighbor_graph


def blobs(sizes: list[int], width: int = 32, spread: float = 0.08, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    generator = torch.Generator().manual_seed(seed)
    centers = normalize(torch.randn(len(sizes), width, generator=generator))
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return centers[labels] + spread * torch.randn(len(labels), width, generator=generator), labels


def groups_of(features: torch.Tensor) -> np.ndarray:
    return dense_groups(neighbor_graph(features), shared_neighbor_graph(features, SHARED_NEIGHBORS))[0]


@pytest.mark.parametrize("sizes", [[60] * 5, [40] * 20, [300, 100, 50, 25]], ids=str)
def test_the_number_of_groups_is_found_and_every_row_is_in_one(sizes: list[int]) -> None:
    features, labels = blobs(sizes)
    groups = groups_of(features)
    assert groups.min() == 0
    assert groups.max() + 1 == len(sizes)
    assert matched_accuracy(labels, groups) > 0.99


def test_rows_that_density_leaves_over_are_more_often_in_the_wrong_group() -> None:
    features, labels = blobs([100] * 6, spread=0.3)
    groups, left_over = dense_groups(neighbor_graph(features), shared_neighbor_graph(features, SHARED_NEIGHBORS))
    in_each = np.zeros((6, groups.max() + 1))
    np.add.at(in_each, (labels, groups), 1)
    is_right = in_each.argmax(axis=0)[groups] == labels
    assert 0.05 < left_over.mean() < 0.2
    assert is_right[left_over].mean() < 0.9 < 0.95 < is_right[~left_over].mean()


@pytest.mark.parametrize("width", [6, 16, 64])
def test_what_is_spread_evenly_is_one_group(width: int) -> None:
    assert groups_of(torch.randn(1500, width, generator=torch.Generator().manual_seed(0))).max() == 0


def test_the_same_rows_give_the_same_groups() -> None:
    features, _ = blobs([50] * 6)
    np.testing.assert_array_equal(groups_of(features), groups_of(features))


@pytest.mark.parametrize("n", [2, 5, 9])
def test_few_rows_are_one_group(n: int) -> None:
    assert groups_of(torch.randn(n, 8, generator=torch.Generator().manual_seed(0))).tolist() == [0] * n


def test_equal_rows_have_groups() -> None:
    assert len(groups_of(torch.ones(60, 4))) == 60
