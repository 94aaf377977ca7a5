from __future__ import annotations

import numpy as np
import pytest

from selfcluster.data.readers.images import ArrayImages
from selfcluster.data.splits import Splits, share_of_each_class, split, splits_among
from selfcluster.errors import DataError

CODES = np.repeat([0, 1, 2, 5], [1000, 100, 7, 1])


def _sizes(chosen: np.ndarray) -> list[int]:
    return [int((CODES[chosen] == code).sum()) for code in (0, 1, 2, 5)]


def test_every_class_has_its_share_and_one_at_least() -> None:
    assert _sizes(share_of_each_class(CODES, 0.01, 0)) == [10, 1, 1, 1]
    assert _sizes(share_of_each_class(CODES, 0.1, 0)) == [100, 10, 1, 1]


def test_some_can_be_left() -> None:
    assert _sizes(share_of_each_class(CODES, 0.999, 0, left=1)) == [999, 99, 6, 0]


def test_it_is_seeded_rising_and_the_larger_share_holds_the_smaller() -> None:
    small, large, other = (share_of_each_class(CODES, share, key) for share, key in ((0.01, 3), (0.1, 3), (0.1, 4)))
    assert set(small) < set(large)
    assert set(large) != set(other)
    assert (np.diff(large) > 0).all()
    assert (share_of_each_class(CODES, 0.1, 3) == large).all()


def labeled(counts: list[int]) -> ArrayImages:
    codes = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    return ArrayImages(np.zeros((len(codes), 2, 2), np.uint8), codes)


def test_the_split_keeps_every_class_on_both_sides_in_its_share() -> None:
    images = labeled([100, 50, 10, 2, 1])
    train, test = split(images, 0.2, seed=0)
    assert images.labels is not None
    assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(163))
    assert np.bincount(images.labels.codes[test], minlength=5).tolist() == [20, 10, 2, 1, 0]
    assert np.bincount(images.labels.codes[train], minlength=5).tolist() == [80, 40, 8, 1, 1]
    # Even a large share leaves one of each class to train on.
    train, _ = split(images, 0.99, seed=0)
    assert np.bincount(images.labels.codes[train], minlength=5).min() == 1


def test_the_split_follows_the_seed() -> None:
    images = labeled([100, 50])
    assert all(np.array_equal(a, b) for a, b in zip(split(images, 0.2, 3), split(images, 0.2, 3), strict=True))
    assert not np.array_equal(split(images, 0.2, 3)[1], split(images, 0.2, 4)[1])


def test_the_split_without_labels() -> None:
    images = ArrayImages(np.zeros((50, 2, 2), np.uint8))
    train, test = split(images, 0.1, 0)
    assert (len(train), len(test)) == (45, 5)
    assert len(set(test.tolist()) - set(range(5))) > 0


def test_a_share_that_leaves_one_side_empty_is_refused() -> None:
    with pytest.raises(DataError, match="one side empty"):
        split(labeled([1, 1, 1]), 0.5, 0)
    for share in (0.0, 1.0, -0.2, 20.0):
        with pytest.raises(DataError, match="between 0 and 1"):
            split(labeled([10, 10]), share, 0)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train-0.tar", "train-1.tar", "val-0.tar"), Splits(("train-0.tar", "train-1.tar"), ("val-0.tar",), "val", ())),
        (
            ("data/test-00000-of-00001.parquet", "data/train-00000-of-00001.parquet"),
            Splits(("data/train-00000-of-00001.parquet",), ("data/test-00000-of-00001.parquet",), "test", ()),
        ),
        (("p_train.tar", "p_val.tar", "p_test.tar", "x.tar"), Splits(("p_train.tar",), ("p_val.tar",), "val", ("p_test.tar", "x.tar"))),
        (("all/train/0.parquet", "all/test/0.parquet"), Splits(("all/train/0.parquet",), ("all/test/0.parquet",), "test", ())),
        (("TRAIN.tar", "Validation.tar"), Splits(("TRAIN.tar",), ("Validation.tar",), "validation", ())),
        (("train-0.tar", "train-1.tar"), None),
        (("val-0.tar", "val-1.tar"), None),
        (("trains-0.tar", "value-1.tar", "x.tar"), None),
    ],
)
def test_splits_are_told_by_names(names: tuple[str, ...], expected: Splits | None) -> None:
    assert splits_among(names) == expected
