"""A share of the labelled images that holds the same share of every class."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray

from selfcluster import randomness


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
