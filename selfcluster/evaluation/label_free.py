"""Metrics without labels.

- Rank: effective rank of the features (RankMe), by definition not centered; 1 for a collapsed encoder.
- Silhouette: how much closer an image is to its own cluster than to the next one.
- Views: two augmented crops of an image should be each other's nearest neighbors, and should have the same neighbors.
- Prototypes: how many are used, and how evenly.

None of these replaces labels: a network that recognizes images by their colors does well on views and badly on classes. Use them to
compare a run with its baselines.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from sklearn.metrics import silhouette_samples
from torch import Tensor
from torch.nn.functional import normalize

from selfcluster.clustering import metrics
from selfcluster.clustering.kmeans import kmeans
from selfcluster.clustering.neighbors import nearest_neighbors
from selfcluster.evaluation.standard_errors import mean_and_error

N_NEIGHBORS = 10


def measure(
    features: Float[Tensor, "n f"],
    centered: Float[Tensor, "n f"],
    views: tuple[Float[Tensor, "m f"], Float[Tensor, "m f"]],
    *,
    k: int,
    seed: int = 0,
) -> Iterator[tuple[str, float]]:
    """Yield `collapse/rankme`, `eval/silhouette`, `eval/view_top1` and `eval/neighbor_overlap`; the last three with standard errors.

    Args:
        features: features of a sample of whole images.
        centered: the same features, centered.
        views: features of two crops of each of these images, row by row, centered by the same mean; unreadable images may be missing.
        k: number of clusters for the silhouette.
        seed: random seed of k-means.
    """
    yield "collapse/rankme", metrics.rankme(features)
    if len(features) > 2:
        yield from mean_and_error("eval/silhouette", silhouettes(centered, min(k, len(centered) - 1), seed=seed))
    if len(views[0]) > 1:
        yield from mean_and_error("eval/view_top1", views_found(*views))
        yield from mean_and_error("eval/neighbor_overlap", neighbor_overlap(*views))


def silhouettes(features: Float[Tensor, "n f"], k: int, *, seed: int = 0) -> Float[np.ndarray, " n"]:
    """Return the silhouette of each image, in [-1, 1], for k-means on features of unit norm; 0 if only one cluster is found.

    Source: Rousseeuw, "Silhouettes", 1987, with Euclidean distances.
    """
    points = normalize(features)
    assignments = kmeans(points, k, init="k-means++", n_init=5, iterations=300, tolerance=1e-4, seed=seed).assignments.numpy()
    if not 1 < len(np.unique(assignments)) < len(points):
        return np.zeros(len(points))
    return silhouette_samples(points.numpy(), assignments)


def views_found(first: Float[Tensor, "n f"], second: Float[Tensor, "n f"]) -> Float[np.ndarray, " n"]:
    """Return in how many of both directions the nearest view of an image, by cosine, is its own other view; 0, 1/2 or 1 per image.

    A tie counts as a miss, so a constant representation scores 0.

    Source: the instance discrimination of arXiv 1805.01978 and the pretext accuracy of MoCo, arXiv 1911.05722, used as a metric.
    """
    found = np.zeros(len(first))
    for one, other in ((first, second), (second, first)):
        nearest, cosines = nearest_neighbors(one, 2, normalize(other))
        is_own = (nearest[:, 0] == torch.arange(len(one))) & (cosines[:, 0] > cosines[:, 1])
        found += is_own.numpy() / 2
    return found


def neighbor_overlap(first: Float[Tensor, "n f"], second: Float[Tensor, "n f"], *, k: int = N_NEIGHBORS) -> Float[np.ndarray, " n"]:
    """Return the share of each image's k nearest other images that are the same among first views and among second views.

    The chance level is k / (n - 1).

    Source: the mutual nearest-neighbor metric of Huh et al., "The platonic representation hypothesis", arXiv 2405.07987, appendix A.
    Deviations: compares two views under one representation; the paper compares two representations.
    """
    lists = [nearest_neighbors(views, k)[0] for views in (first, second)]
    shared = (lists[0][:, :, None] == lists[1][:, None, :]).any(dim=2)
    return shared.double().mean(dim=1).numpy()


def prototype_use(assignments: NDArray[np.int64] | Tensor, n_prototypes: int) -> Iterator[tuple[str, float]]:
    """Yield `collapse/prototypes_used`, the perplexity of their use, and `collapse/prototypes_share`, the share used at all.

    Args:
        assignments: nearest prototype of each image; with fewer than about ten images per prototype, both are low by chance.
        n_prototypes: number of prototypes.
    """
    assignments = torch.as_tensor(assignments)
    yield "collapse/prototypes_used", metrics.prototypes_used(assignments, n_prototypes)
    yield "collapse/prototypes_share", len(assignments.unique()) / n_prototypes
