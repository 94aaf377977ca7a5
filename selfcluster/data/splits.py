"""Splits: a share of the images, stratified by class; and splits that file names tell."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray

from selfcluster import randomness
from selfcluster.data.readers.images import Images
from selfcluster.errors import DataError


def split(images: Images, test_share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices to train on and to test on, seeded; stratified where there are labels, with one a class at least on both sides.

    Raises:
        DataError: the share is not between 0 and 1, or leaves one side empty.
    """
    if not 0 < test_share < 1:
        raise DataError(f"test_share {test_share} is not between 0 and 1; use a share such as 0.2")
    key = randomness.uniform(seed, _SPLIT, np.arange(len(images)), n=1)[:, 0]
    codes = images.labels.codes if images.labels is not None else np.zeros(len(images), dtype=np.int64)
    is_test = np.zeros(len(images), dtype=bool)
    for code in np.unique(codes):
        members = np.flatnonzero(codes == code)
        n_test = min(max(1, round(test_share * len(members))), len(members) - 1)
        is_test[members[np.argsort(key[members])[:n_test]]] = True
    if not is_test.any() or is_test.all():
        raise DataError(f"test_share {test_share} of {len(images)} images leaves one side empty")
    return np.flatnonzero(~is_test), np.flatnonzero(is_test)


_SPLIT = 0x5711
"""Keeps the split's draws apart from every other use of the seed."""


TEST_SPLITS = ("val", "test", "valid", "validation")
"""Names of what is kept for evaluation; the first that is there is taken."""


_SPLIT_IN_NAME = re.compile(rf"(?:^|[-_./])(train|{'|'.join(TEST_SPLITS)})(?=[-_./])", re.IGNORECASE)


@dataclass(frozen=True)
class Splits:
    """Files by the split that their names tell."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    name: str
    """Of the test split."""
    unused: tuple[str, ...]


def splits_among(names: Sequence[str]) -> Splits | None:
    """Splits, where some files or their folders are called train and others val, test, valid or validation: `train-00000-of-00002.parquet`."""
    of: dict[str, list[str]] = {}
    for name in names:
        found = _SPLIT_IN_NAME.findall(name.replace(os.sep, "/"))
        of.setdefault(found[-1].lower() if found else "", []).append(name)
    test = next((split for split in TEST_SPLITS if split in of), None)
    if "train" not in of or test is None:
        return None
    unused = [name for split, files in of.items() if split not in ("train", test) for name in files]
    return Splits(tuple(of["train"]), tuple(of[test]), test, tuple(unused))


def share_of_each_class(codes: Int64[np.ndarray, " n"], share: float, *key: int, at_least: int = 1, left: int = 0) -> NDArray[np.int64]:
    """Rows that hold this share of each class, rising.

    Args:
        codes: class of each row.
        share: in (0, 1).
        key: of the draw; a larger share of the same key holds the smaller one.
        at_least: rows of each class, as far as it has them.
        left: rows of each class that are not taken, whatever the share and `at_least` say.
    """
    order = randomness.uniform(*key, np.arange(len(codes)), n=1)[:, 0]
    chosen = []
    for code in np.unique(codes):
        members = np.flatnonzero(codes == code)
        n = min(max(at_least, round(share * len(members))), len(members) - left)
        chosen.append(members[np.argsort(order[members])[: max(0, n)]])
    return np.sort(np.concatenate(chosen))
