"""How many clusters are there? A number by a score that needs no labels, with the scores of the others beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.metrics import silhouette_score
from torch import Tensor
from torch.nn.functional import normalize

from selfcluster import randomness
from selfcluster.clustering.kmeans import kmeans

_N_SCORED = 4000
"""Rows that the silhouette, which compares all pairs, is taken of."""
_N_STARTS = 3


@dataclass(frozen=True)
class Candidate:
    """One number of clusters."""

    k: int
    silhouette: float
    """In [-1, 1], of a sample; more is better."""
    inertia: float
    """Sum of 1 - cosine with the centroid, over all rows."""


def choose_n_clusters(
    features: Float[Tensor, "n f"], *, seed: int = 0, at_most: int = 100, device: torch.device | None = None
) -> tuple[int, tuple[Candidate, ...]]:
    """The number of clusters of the largest silhouette, and all that were tried.

    Args:
        features: compared by cosine.
        seed: of the starts and the sample.
        at_most: clusters; fewer where there are fewer than 5 rows for each.
        device: where to cluster; None for where the features are.
    Returns:
        k, from 2 on in steps of a fifth; and the curve.
    Source: Rousseeuw, "Silhouettes", 1987. It asks that clusters be apart and compact: where they run into each other it prefers few.
    """
    points = normalize(features)
    sample = np.sort(np.random.default_rng(randomness.seed_from(seed, 0)).permutation(len(points))[:_N_SCORED])
    tried = []
    for k in candidates(min(at_most, max(2, len(points) // 5))):
        how: dict[str, Any] = dict(spherical=True, init="k-means++", iterations=50, tolerance=1e-3, device=device)
        starts = (kmeans(points, k, seed=randomness.seed_from(seed, k, start), **how) for start in range(_N_STARTS))
        found = min(starts, key=lambda found: found.inertia[-1])
        labels = found.assignments.cpu()[torch.from_numpy(sample)].numpy()
        distinct = 1 < len(np.unique(labels)) < len(labels)
        score = float(silhouette_score(points[torch.from_numpy(sample)].numpy(), labels, metric="cosine")) if distinct else -1.0
        tried.append(Candidate(k, score, found.inertia[-1]))
    return max(tried, key=lambda one: one.silhouette).k, tuple(tried)


def candidates(at_most: int) -> list[int]:
    """Every number up to 12, then in steps of about a fifth."""
    found = list(range(2, min(12, at_most) + 1))
    while found[-1] < at_most:
        found.append(min(at_most, round(1.2 * found[-1])))
    return found
