"""Clusters against labels: k-means on features, one cluster a class."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.special import xlogy
from sklearn.metrics.cluster import expected_mutual_information
from torch import Tensor
from torch.nn.functional import normalize

from selfcluster.clustering import metrics
from selfcluster.clustering.kmeans import kmeans
from selfcluster.evaluation.standard_errors import resampled_tables

_FIGURES = {
    "cluster/accuracy": metrics.matched_accuracy,
    "cluster/purity": metrics.purity,
    "cluster/nmi": metrics.nmi,
    "cluster/ami": metrics.ami,
    "cluster/ari": metrics.ari,
}

_DRAWS = 200
"""Of the bootstrap; the standard error is then known to 5 % of itself."""


def run(
    features: Float[Tensor, "n f"],
    labels: NDArray[np.int64],
    *,
    seed: int = 0,
    n_starts: int = 20,
    device: torch.device | None = None,
) -> Iterator[tuple[str, float]]:
    """Yields `cluster/accuracy`, `purity`, `nmi`, `ami` and `ari` of k-means with as many clusters as classes.

    Each comes with its standard error: of other draws of images into these clusters, not of other clusterings.

    Args:
        features: brought to unit norm here, not centered.
        labels: class of each row.
        seed: of the starts.
        n_starts: the best by inertia counts; never chosen by the labels.
        device: where to cluster; None for where the features are.
    """
    points, k = normalize(features), len(np.unique(labels))
    found = kmeans(points, k, init="k-means++", n_init=n_starts, iterations=300, tolerance=1e-4, seed=seed, device=device)
    assignments = found.assignments.cpu().numpy()
    drawn = [figures_of(counts) for counts in resampled_tables(labels, assignments, draws=_DRAWS, seed=seed)]
    for name, figure in _FIGURES.items():
        yield name, figure(labels, assignments)
        yield f"{name}_se", float(np.std([figures[name] for figures in drawn], ddof=1))


def figures_of(counts: Int64[np.ndarray, "classes clusters"]) -> dict[str, float]:
    """What `metrics` says of two partitions, from how many images are in each class and cluster: quick, for many such tables."""
    counts = counts[counts.any(axis=1)][:, counts.any(axis=0)]
    n, rows, columns = counts.sum(), counts.sum(axis=1), counts.sum(axis=0)
    of_rows, of_columns = (-xlogy(sums / n, sums / n).sum() for sums in (rows, columns))
    mutual = of_rows + of_columns + xlogy(counts / n, counts / n).sum()
    mean = (of_rows + of_columns) / 2
    expected = expected_mutual_information(counts, n)
    pairs, of_row, of_column = (float((x * (x - 1)).sum()) for x in (counts, rows, columns))
    by_chance = of_row * of_column / max(1, n * (n - 1))
    return {
        "cluster/accuracy": float(counts[linear_sum_assignment(counts, maximize=True)].sum() / n),
        "cluster/purity": float(counts.max(axis=0).sum() / n),
        # Of one class in one cluster all are right.
        "cluster/nmi": float(mutual / mean) if mean > 0 else 1.0,
        "cluster/ami": float((mutual - expected) / (mean - expected)) if mean > expected else 1.0,
        "cluster/ari": (pairs - by_chance) / ((of_row + of_column) / 2 - by_chance) if of_row + of_column > 2 * by_chance else 1.0,
    }
