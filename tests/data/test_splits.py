"""Stratified splits: every class keeps its share, and the choice follows the key."""

from __future__ import annotations

import numpy as np
import pytest

from selfcluster.data.readers.images import ArrayImages
from selfcluster.data.splits import hold_out, stratified_split
from selfcluster.errors import DataError

CODES = np.repeat([0, 1, 2, 5], [1000, 100, 7, 1])


def _sizes(chosen: np.ndarray) -> list[int]:
    return [int((CODES[chosen] == code).sum()) for code in (0, 1, 2, 5)]


def test_every_class_has_its_share_and_at_least_one() -> None:
    assert _sizes(stratified_split(CODES, 0.01, 0, keep=0)[1]) == [10, 1, 1, 1]
    assert _sizes(stratified_split(CODES, 0.1, 0, keep=0)[1]) == [100, 10, 1, 1]


def test_each_class_keeps_some() -> None:
    assert _sizes(stratified_split(CODES, 0.999, 0)[1]) == [999, 99, 6, 0]
    assert _sizes(stratified_split(CODES, 0.999, 0)[0]) == [1, 1, 1, 1]


def test_the_choice_follows_the_key_and_a_larger_share_contains_the_smaller() -> None:
    small, large, other = (stratified_split(CODES, share, key, keep=0)[1] for share, key in ((0.01, 3), (0.1, 3), (0.1, 4)))
    assert set(small) < set(large)
    assert set(large) != set(other)
    assert (np.diff(large) > 0).all()
    assert (stratified_split(CODES, 0.1, 3, keep=0)[1] == large).all()


def labeled(counts: list[int]) -> ArrayImages:
    codes = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    return ArrayImages(np.zeros((len(codes), 2, 2), np.uint8), codes)


def test_the_split_keeps_every_class_on_both_sides_in_its_share() -> None:
    images = labeled([100, 50, 10, 2, 1])
    train, test = hold_out(images, 0.2, seed=0)
    assert images.labels is not None
    assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(163))
    assert np.bincount(images.labels.codes[test], minlength=5).tolist() == [20, 10, 2, 1, 0]
    assert np.bincount(images.labels.codes[train], minlength=5).tolist() == [80, 40, 8, 1, 1]
    # Even a large share leaves one image of each class to train on.
    train, _ = hold_out(images, 0.99, seed=0)
    assert np.bincount(images.labels.codes[train], minlength=5).min() == 1


def test_the_split_follows_the_seed() -> None:
    images = labeled([100, 50])
    assert all(np.array_equal(a, b) for a, b in zip(hold_out(images, 0.2, 3), hold_out(images, 0.2, 3), strict=True))
    assert not np.array_equal(hold_out(images, 0.2, 3)[1], hold_out(images, 0.2, 4)[1])


def test_the_split_without_labels() -> None:
    images = ArrayImages(np.zeros((50, 2, 2), np.uint8))
    train, test = hold_out(images, 0.1, 0)
    assert (len(train), len(test)) == (45, 5)
    assert len(set(test.tolist()) - set(range(5))) > 0


def test_which_images_are_chosen_is_part_of_every_run() -> None:
    codes = np.array([0, 1, 0, 1, 2, 0, 1, 0, 2, 2, 1, 0])
    _, test = hold_out(ArrayImages(np.zeros((12, 2, 2), np.uint8), codes), 0.4, 3)
    assert test.tolist() == [0, 1, 6, 7, 9]


def test_a_share_that_leaves_one_side_empty_is_refused() -> None:
    with pytest.raises(DataError, match="no image on one side"):
        hold_out(labeled([1, 1, 1]), 0.5, 0)
    for share in (0.0, 1.0, -0.2, 20.0):
        with pytest.raises(DataError, match="between 0 and 1"):
            hold_out(labeled([10, 10]), share, 0)
