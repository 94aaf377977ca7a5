"""Clusters against labels: k-means on features, one cluster a class."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn.functional import normalize

from selfcluster import metrics


def run(features: Float[Tensor, "n f"], labels: NDArray[np.int64], *, seed: int = 0, n_starts: int = 20) -> Iterator[tuple[str, float]]:
    """Yields `cluster/accuracy`, `cluster/nmi`, `cluster/ami` and `cluster/ari` of k-means with as many clusters as classes.

    Args:
        features: brought to unit norm here, not centred.
        labels: class of each row.
        seed: of the starts.
        n_starts: the best by inertia counts; never chosen by the labels.
    """
    kmeans = KMeans(len(np.unique(labels)), n_init=n_starts, random_state=seed)
    assignments = kmeans.fit_predict(normalize(features).numpy())
    yield "cluster/accuracy", metrics.matched_accuracy(labels, assignments)
    yield "cluster/nmi", metrics.nmi(labels, assignments)
    yield "cluster/ami", metrics.ami(labels, assignments)
    yield "cluster/ari", metrics.ari(labels, assignments)
