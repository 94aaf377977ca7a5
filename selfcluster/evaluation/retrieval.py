"""Retrieval: each test image is a query, for which the other images of its class should rank first.

Follows the convention of metric learning: leave-one-out among the test images, ranked by cosine, without training images.

Source: Oh Song et al., "Deep metric learning via lifted structured feature embedding", arXiv 1511.06452, section 6 (recall@1 among
the test images). Deviations: also reports the mean average precision over the whole ranking.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from selfcluster import randomness
from selfcluster.evaluation.standard_errors import mean_and_error

_CHUNK_VALUES = 1 << 24
_MAX_QUERIES = 10_000
_QUERIES = 0x4E7
"""Key of the random draws."""


def queries_of(labels: NDArray[np.int64], *, seed: int = 0, at_most: int = _MAX_QUERIES) -> NDArray[np.int64]:
    """Return the indices of the query images, ascending: those whose class has another image, or a seeded sample of them."""
    able = np.flatnonzero(np.bincount(labels)[labels] > 1)
    if len(able) <= at_most:
        return able
    return np.sort(able[randomness.permutation(len(able), seed, _QUERIES)[:at_most]])


def measure(
    features: Float[Tensor, "n f"],
    labels: NDArray[np.int64],
    *,
    queries: NDArray[np.int64] | None = None,
    device: torch.device | None = None,
) -> Iterator[tuple[str, float]]:
    """Yield `eval/retrieval_map` and `eval/retrieval_recall1`, each with its standard error over the queries.

    Average precision is the mean, over the relevant images, of the precision at their rank. Equal cosines share the lowest rank, so a
    constant representation is at chance level. Yields nothing if no class has two images.

    Args:
        features: features of the test images, centered; they are scaled to unit length here.
        labels: class of each row, from 0.
        queries: indices of the query images; None for those of `queries_of`.
        device: where cosines are computed; None for the device of the features.
    """
    queries = queries_of(labels) if queries is None else queries
    if len(queries) == 0:
        return
    points = normalize(features.to(device or features.device))
    precision, first_is_right = np.empty(len(queries)), np.empty(len(queries), dtype=bool)
    step = max(1, _CHUNK_VALUES // len(points))
    for start in range(0, len(queries), step):
        asking = queries[start : start + step]
        cosines = (points[torch.from_numpy(asking).to(points.device)] @ points.T).cpu().numpy()
        cosines[np.arange(len(asking)), asking] = -np.inf
        ordered = np.sort(cosines, axis=1)
        for row, query in enumerate(asking):
            others = labels == labels[query]
            others[query] = False
            precision[start + row] = _average_precision(ordered[row, 1:], np.sort(cosines[row, others]))
            first_is_right[start + row] = labels[cosines[row].argmax()] == labels[query]
    yield from mean_and_error("eval/retrieval_map", precision)
    yield from mean_and_error("eval/retrieval_recall1", first_is_right)


def _average_precision(every: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """Return the average precision, given all similarities and those of the relevant images, both ascending."""
    as_high = len(every) - np.searchsorted(every, wanted, side="left")
    wanted_as_high = len(wanted) - np.searchsorted(wanted, wanted, side="left")
    return float((wanted_as_high / as_high).mean())
