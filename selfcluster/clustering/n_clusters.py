"""The number of clusters, chosen by a score that needs no labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from sklearn.metrics import silhouette_score
from torch import Tensor
from torch.nn.functional import normalize

from selfcluster import randomness
from selfcluster.clustering.kmeans import kmeans

_N_SCORED = 4000
"""Rows in the sample for the silhouette, which compares all pairs."""


@dataclass(frozen=True)
class Candidate:
    """A number of clusters that was tried."""

    k: int
    silhouette: float
    """Mean silhouette of a sample, in [-1, 1]; higher is better."""
    inertia: float
    """Sum of 1 - cosine with the centroid, over all rows."""


def choose_n_clusters(
    features: Float[Tensor, "n f"], *, seed: int = 0, at_most: int = 100, device: torch.device | None = None
) -> tuple[int, tuple[Candidate, ...]]:
    """Return the number of clusters with the largest silhouette, and all candidates.

    Args:
        features: compared by cosine.
        seed: random seed of k-means and of the sample.
        at_most: largest number of clusters; lowered to one for every 5 rows.
        device: where to cluster; None for the features' device.
    Source: Rousseeuw, "Silhouettes", 1987. The silhouette favors separated, compact clusters; where clusters overlap it prefers few.
    """
    points = normalize(features)
    sample = torch.from_numpy(np.sort(np.random.default_rng(randomness.seed_from(seed, 0)).permutation(len(points))[:_N_SCORED]))
    tried = []
    for k in candidates(min(at_most, max(2, len(points) // 5))):
        found = kmeans(
            points,
            k,
            spherical=True,
            init="k-means++",
            n_init=3,
            iterations=50,
            tolerance=1e-3,
            seed=randomness.seed_from(seed, k),
            device=device,
        )
        labels = found.assignments.cpu()[sample].numpy()
        is_scored = 1 < len(np.unique(labels)) < len(labels)
        silhouette = float(silhouette_score(points[sample].numpy(), labels, metric="cosine")) if is_scored else -1.0
        tried.append(Candidate(k, silhouette, found.inertia[-1]))
    return max(tried, key=lambda candidate: candidate.silhouette).k, tuple(tried)


def candidates(at_most: int) -> list[int]:
    """Return every number from 2 to 12, then steps of about a fifth."""
    found = list(range(2, min(12, at_most) + 1))
    while found[-1] < at_most:
        found.append(min(at_most, round(1.2 * found[-1])))
    return found
