"""Copies are proposed by features and thumbnails, and grouped so that all of a group are copies of each other."""

from __future__ import annotations

import torch

from selfcluster.clustering.duplicates import complete_groups, proposed_pairs, thumbnails


def test_rows_near_each_other_that_look_alike_straight_or_mirrored_are_proposed() -> None:
    draw = torch.Generator().manual_seed(0)
    features, looks = torch.eye(6), torch.randn(6, thumbnails.width, generator=draw)
    features[3], features[4], features[5] = features[0], features[1], features[2]
    looks[3], looks[4] = looks[0] + 0.1, thumbnails.mirrored(looks[1:2])[0]
    assert proposed_pairs(features, looks).tolist() == [[0, 3], [1, 4]]


def test_rows_with_the_same_thumbnail_are_proposed_with_the_first_however_many_they_are() -> None:
    looks = torch.randn(1, thumbnails.width, generator=torch.Generator().manual_seed(0)).repeat(40, 1)
    assert proposed_pairs(torch.ones(40, 2), looks).tolist() == [[0, row] for row in range(1, 40)]


def test_a_chain_of_copies_is_not_one_group() -> None:
    assert complete_groups(5, [(0, 1), (1, 2), (3, 4)]).tolist() == [-1, 0, -1, -1, 3]
    assert complete_groups(3, [(0, 1), (1, 2), (0, 2)]).tolist() == [-1, 0, 0]
