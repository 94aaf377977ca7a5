from __future__ import annotations

import numpy as np

from selfcluster.evaluate.subsets import share_of_each_class

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
