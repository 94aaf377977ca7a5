"""Clusters against labels: k-means on features, with as many clusters as classes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.stats import bootstrap
from torch import Tensor
from torch.nn.functional import normalize

from selfcluster.clustering import metrics
from selfcluster.clustering.kmeans import kmeans

_METRICS = {
    "cluster/accuracy": metrics.matched_accuracy,
    "cluster/purity": metrics.purity,
    "cluster/nmi": metrics.nmi,
    "cluster/ami": metrics.ami,
    "cluster/ari": metrics.ari,
}

_N_RESAMPLES = 50
"""Bootstrap resamples; the standard error itself then has a relative error of 10 %."""


def measure(
    features: Float[Tensor, "n f"],
    labels: NDArray[np.int64],
    *,
    seed: int = 0,
    n_starts: int = 20,
    device: torch.device | None = None,
) -> Iterator[tuple[str, float]]:
    """Yield `cluster/accuracy`, `purity`, `nmi`, `ami` and `ari` of k-means with as many clusters as classes.

    Each comes with its standard error by bootstrap over the images, with the clusters held fixed.

    Args:
        features: centered; they are scaled to unit length here.
        labels: class of each row.
        seed: random seed of k-means and of the bootstrap.
        n_starts: k-means starts; the one with the lowest inertia is used, without regard to the labels.
        device: where to cluster; None for the device of the features.
    """
    points, k = normalize(features), len(np.unique(labels))
    found = kmeans(points, k, init="k-means++", n_init=n_starts, iterations=300, tolerance=1e-4, seed=seed, device=device)
    assignments = found.assignments.cpu().numpy()
    for name, metric in _METRICS.items():
        yield name, metric(labels, assignments)
        resampled = bootstrap(
            (labels, assignments),
            metric,
            paired=True,
            n_resamples=_N_RESAMPLES,
            batch=1,
            method="percentile",
            random_state=np.random.default_rng(seed),
        )
        yield f"{name}_se", float(resampled.standard_error)
