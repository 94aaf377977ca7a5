"""Clusters against labels: k-means on features, one cluster a class."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from selfcluster import metrics, randomness
from selfcluster.kmeans import kmeans


def run(features: Float[Tensor, "n f"], labels: NDArray[np.int64], *, seed: int = 0, n_starts: int = 20) -> Iterator[tuple[str, float]]:
    """Yields `cluster/accuracy`, `cluster/nmi`, `cluster/ami` and `cluster/ari` of k-means with as many clusters as classes.

    Args:
        features: brought to unit norm here, not centred.
        labels: class of each row.
        seed: of the starts.
        n_starts: the best by inertia counts; never chosen by the labels.
    """
    points, k = normalize(features), len(np.unique(labels))
    starts = (
        kmeans(points, k, init="k-means++", iterations=300, tolerance=1e-4, seed=randomness.seed_from(seed, start))
        for start in range(n_starts)
    )
    assignments = min(starts, key=lambda found: found.inertia[-1]).assignments.numpy()
    yield "cluster/accuracy", metrics.matched_accuracy(labels, assignments)
    yield "cluster/nmi", metrics.nmi(labels, assignments)
    yield "cluster/ami", metrics.ami(labels, assignments)
    yield "cluster/ari", metrics.ari(labels, assignments)
