"""Stratified splits: a share of each class."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray

from selfcluster import randomness
from selfcluster.data.readers.images import Images
from selfcluster.errors import DataError

_TEST = 0x5711
"""Separates the draws of the test share from every other use of the seed."""


def stratified_split(
    codes: Int64[np.ndarray, " n"], share: float, *key: int, keep: int = 1
) -> tuple[Int64[np.ndarray, " rest"], Int64[np.ndarray, " chosen"]]:
    """Choose a share of each class at random.

    Args:
        codes: class of each row.
        share: share of each class to choose, in (0, 1); at least one row, except those that `keep` reserves.
        key: key of the draw; with one key, a larger share contains the smaller one.
        keep: rows of each class that are never chosen.
    Returns:
        the other rows and the chosen ones, each in ascending order.
    """
    order = randomness.uniform(*key, np.arange(len(codes)), n=1)[:, 0]
    is_chosen = np.zeros(len(codes), dtype=bool)
    for code in np.unique(codes):
        members = np.flatnonzero(codes == code)
        n = min(max(1, round(share * len(members))), len(members) - keep)
        is_chosen[members[np.argsort(order[members])[:n]]] = True
    return np.flatnonzero(~is_chosen), np.flatnonzero(is_chosen)


def hold_out(images: Images, test_share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split images into training and test indices, stratified by label if there are labels; each class keeps an image to train on.

    Raises:
        DataError: the share is not between 0 and 1, or no image is left on one side.
    """
    if not 0 < test_share < 1:
        raise DataError(f"test_share {test_share} is not between 0 and 1; use a share such as 0.2")
    codes = images.labels.codes if images.labels is not None else np.zeros(len(images), dtype=np.int64)
    train, test = stratified_split(codes, test_share, seed, _TEST)
    if not len(train) or not len(test):
        raise DataError(f"test_share {test_share} of {len(images)} images leaves no image on one side")
    return train, test
